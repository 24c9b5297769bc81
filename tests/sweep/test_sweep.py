from __future__ import annotations

import pytest
from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.types import HydraContext, RunMode
from omegaconf import OmegaConf

from compress_exp.config.checks import UserError
from compress_exp.config.compose import loader_of
from compress_exp.config.schema import CONF
from compress_exp.outputs.manifest import FINISHED, MISSING, REFUSED
from compress_exp.sweep.sweep import Sweep


@pytest.fixture
def sweep(tmp_path):
    arguments = ["seed=0,1", "tracking=disabled", f"outputs={tmp_path}"]
    loader = loader_of()
    hydra = Hydra(task_name="app", config_loader=loader)
    GlobalHydra.instance().clear()
    GlobalHydra.instance().initialize(hydra)
    root = loader.load_configuration("config", arguments, RunMode.MULTIRUN)
    context = HydraContext(config_loader=loader, callbacks=Callbacks(root))
    yield Sweep(context, lambda config: None, root, arguments, "compress_exp.cli.main.identify")
    GlobalHydra.instance().clear()


@pytest.mark.parametrize(
    "overrides",
    [
        ["seed=3"],
        ["method=quant", "method.quant.calibration=8", "train.max_steps=7"],
        ["method=[prune,quant]", "method.prune.sparsity=0.3", "task=sst2", "task.data_dir='my data'"],
        ["method=prune", "+method@method.prune2=prune/magnitude", "method.prune2.sparsity=0.7"],
        ["~score.speed", "+train.extra=1", "model.architecture.hidden_size=32"],
        ["train.threads=null", "hardware.lengths=[16,32]", "hardware=cpu_eager"],
    ],
)
def test_jobs_compose_as_hydra_composes_them(sweep, overrides):
    for seed in (0, 1):
        job = [*overrides, f"seed={seed}"]
        both = sweep.compose(job), sweep.loader.load_sweep_config(sweep.root, job)
        own, theirs = (OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]) for config in both)
        assert own == theirs
        assert OmegaConf.to_container(own, resolve=True) == OmegaConf.to_container(theirs, resolve=True)


def test_a_change_behind_the_search_path_is_seen(tmp_path):
    own = tmp_path / "own" / "method" / "prune"
    own.mkdir(parents=True)
    content = (CONF / "method" / "prune" / "magnitude.yaml").read_text()
    arguments = ["method=prune/own", f"outputs={tmp_path}/out", f"hydra.searchpath=[file://{tmp_path}/own]"]
    runs = []
    for sparsity in ("0.5", "0.5", "0.25"):
        text = content.replace("sparsity: 0.5", f"sparsity: {sparsity}")
        if not (own / "own.yaml").exists() or (own / "own.yaml").read_text() != text:
            (own / "own.yaml").write_text(text)
        loader = loader_of()
        root = loader.load_configuration("config", arguments, RunMode.MULTIRUN)
        context = HydraContext(config_loader=loader, callbacks=Callbacks(root))
        swept = Sweep(context, lambda config: None, root, arguments[:1], "compress_exp.cli.main.identify")
        (member,) = swept.members([["method=prune/own"]])
        runs.append((bool(swept.known), member.identity.run))
    assert [known for known, _ in runs] == [False, True, False]
    assert runs[0][1] == runs[1][1] != runs[2][1]


def test_an_unknown_key_is_told_as_ever(sweep):
    with pytest.raises(UserError, match="sparsty: there is no key 'sparsty' in method.prune; did you mean sparsity"):
        sweep.compose(["method=prune", "method.prune.sparsty=0.5"])


def test_the_identity_does_not_depend_on_order_launcher_tracking_or_place(sweep, tmp_path):
    jobs = [
        ["method=[prune,quant]", "seed=1", "train.max_steps=5"],
        ["train.max_steps=5", "seed=1", "method=[prune,quant]"],
        ["method=[prune,quant]", "seed=1", "train.max_steps=5", "tracking=csv", f"outputs={tmp_path}/other"],
        [
            "method=[prune,quant]",
            "seed=1",
            "train.max_steps=5",
            "train.threads=2",
            "lease_seconds=5",
            "train.devices=2",
        ],
        ["method=[quant,prune]", "seed=1", "train.max_steps=5"],
    ]
    members = sweep.members(jobs)
    runs = [member.identity.run if member.identity else None for member in members]
    assert len(set(runs[:4])) == 1
    assert [member.state for member in members] == [MISSING] * 4 + [REFUSED]
    assert "nothing can follow" in members[4].reason
    assert FINISHED not in [member.state for member in members]
