"""Packages of the user's stand beside ours, in every process; nothing else is ever imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import torch

from compress_exp.config.checks import UserError
from compress_exp.config.plugins import VARIABLE, modules, plugins, use
from compress_exp.formats.codecs import codecs
from compress_exp.layers.stored import kinds
from compress_exp.models.families.base import family_of, model_types
from compress_exp.models.forward import forward_outputs
from compress_exp.runtimes.base import names, runtime
from compress_exp.runtimes.graphs.forms import form

ROOT = Path(__file__).parents[2]
FAMILY = '''
"""DeBERTa-v2, whose attention is not on transformers' interface: queries are hooked, the rest is not given."""
from contextlib import contextmanager
from dataclasses import replace

from compress_exp.models.families.base import Family, Heads
from compress_exp.models.families import bert

MODEL_TYPE = "deberta-v2"


@contextmanager
def observe(model, tells):
    def watch(module, tell):
        def hook(projection, inputs, output):
            tell("query", output.unflatten(-1, (module.num_attention_heads, -1)).transpose(1, 2))

        return module.query_proj.register_forward_hook(hook)

    handles = [watch(module, tell) for module, tell in tells.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


FAMILY = replace(
    bert.FAMILY,
    roles={
        "attention.self.query_proj": "query",
        "attention.self.key_proj": "key",
        "attention.self.value_proj": "value",
        "attention.output.dense": "attention_output",
        "intermediate.dense": "ffn_in",
        "output.dense": "ffn_out",
    },
    text=replace(bert.FAMILY.text, segments=False),
    attention=("query",),
    observe=observe,
)
'''
KIND = """
from typing import ClassVar

from compress_exp.layers.stored import Stored


class Mine(Stored):
    kind: ClassVar[str] = "{kind}"

    @classmethod
    def build(cls, plain, spec):
        return cls()

    def dense(self):
        raise AssertionError("nobody asks here")
"""
RELOAD = """
import json, sys
import torch, transformers
import compress_exp
from compress_exp.config.checks import UserError

path, plugin = sys.argv[1:]
told = None
if plugin:
    try:
        compress_exp.load(path)
    except UserError as error:
        told = str(error)
    model = compress_exp.load(path, plugins=[plugin])
else:
    import compress_exp.hf
    model = transformers.AutoModelForSequenceClassification.from_pretrained(path).eval()
with torch.no_grad():
    print(json.dumps([told, model(input_ids=torch.arange(1, 25).view(2, 12)).logits.tolist()]))
"""


@pytest.fixture
def package(tmp_path, monkeypatch, request):
    """`package("families/x.py", text)`: a package of a name of its own that can be imported, with a file."""
    name = f"plugin_{zlib.crc32(request.node.nodeid.encode())}"
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(VARIABLE, "")

    def make(file, text, package=name):
        place = tmp_path / package / file
        place.parent.mkdir(parents=True, exist_ok=True)
        for directory in (tmp_path / package, place.parent):
            (directory / "__init__.py").touch()
        place.write_text(text)
        return package

    return make


def child(arguments, tmp_path, **environment):
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    values = {**os.environ, "PYTHONPATH": path, VARIABLE: "", **environment}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=values, cwd=tmp_path)


def test_a_family_of_a_plugin_trains_on_two_processes_prunes_is_measured_and_reloads(data, tmp_path, package):
    name = package("families/deberta_v2.py", FAMILY)
    command = ["-m", "compress_exp", "model=tiny_bert", "model.architecture.model_type=deberta-v2", "seed=3"]
    command += [f"task.data_dir={data}", "model.vocabulary=320", "task.max_length=32", "task.batch_size=8"]
    command += ["train.max_steps=3", "train.threads=1", "train.devices=2", "tracking=disabled", "hardware=cpu_eager"]
    command += ["hardware.rounds=10", "hardware.seconds=0.1", "hardware.lengths=[16]", "hardware.batch_sizes=[1]"]
    command += ["method=prune/heads", "outputs=out"]
    refused = child(command, tmp_path)
    assert refused.returncode != 0 and len(refused.stderr.strip().splitlines()) == 1
    sentence = "model.architecture.model_type: models of type 'deberta-v2' are not supported; allowed: albert, bart, "
    assert refused.stderr.startswith(sentence)
    mute = child([*command, f"plugins=[{name}]", "loss=attention", "plan=true"], tmp_path)
    sentence = "loss.attention: it needs 'attention_scores' of the student, whose family does not give it; "
    assert mute.stderr.strip() == f"{sentence}allowed: hidden, logits, query"

    done = child([*command, f"plugins=[{name}]"], tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads(next((tmp_path / "out" / "runs").glob("*/record.json")).read_text())
    assert record["quality"]["agreement"] is not None and record["latency"]["rows"]
    artifact = str(tmp_path / "out" / "artifacts" / record["origin"]["artifact"])
    assert json.loads((Path(artifact) / "config.json").read_text())["quantization_config"]["modules"] is not None

    named = child(["-c", RELOAD, artifact, name], tmp_path)
    there = child(["-c", RELOAD, artifact, ""], tmp_path, **{VARIABLE: name})
    (refused, logits), (_, again) = (json.loads(answer.stdout.splitlines()[-1]) for answer in (named, there))
    assert "models of type 'deberta-v2' are not supported" in refused
    assert logits == again and len(logits) == 2


def test_hooks_of_a_family_of_its_own_are_captured(package, batch):
    import transformers

    use([package("families/deberta_v2.py", FAMILY)])
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    torch.manual_seed(0)
    config = transformers.DebertaV2Config(vocab_size=400, **sizes)
    model = transformers.DebertaV2ForSequenceClassification(config).eval()
    family = family_of("deberta-v2")
    assert "deberta-v2" in model_types() and family.captures == {"hidden", "query", "encoder.query"}
    with torch.no_grad():
        found = forward_outputs(model, batch, {"query", "hidden"})
    for layer, (query, hidden) in enumerate(zip(found["query"]["encoder"], found["hidden"]["encoder"], strict=False)):
        projection = model.deberta.encoder.layer[layer].attention.self.query_proj
        with torch.no_grad():
            assert torch.equal(query.transpose(1, 2).flatten(2), projection(hidden))


def test_kinds_codecs_and_runtimes_of_a_plugin_are_found_and_no_two_of_one_name(package, monkeypatch):
    name = package("layers/mine.py", KIND.format(kind="test_kind"))
    package("forms/mine.py", "def onnx(layer):\n    return 'a form'")
    package("codecs/mine.py", "PIECES = ('mine',)")
    package("runtimes/mine.py", "RUNTIME = 'mine'")
    before = set(kinds())
    assert "mine" not in codecs() and "mine" not in names()
    use([name])
    assert set(kinds()) == before | {"test_kind"} and kinds()["test_kind"].__module__ == f"{name}.layers.mine"
    assert form(object.__new__(kinds()["test_kind"]), "onnx")(None) == "a form"
    assert codecs()["mine"].PIECES == ("mine",) and "mine" in names() and runtime("mine") == "mine"
    package("layers/other.py", KIND.format(kind="int8_linear"), "plugin_same_kind")
    monkeypatch.setenv(VARIABLE, "plugin_same_kind")
    with pytest.raises(UserError, match=r"^plugins: plugin_same_kind\.layers\.other has the kind 'int8_linear' of "):
        kinds()
    package("layers/int8.py", KIND.format(kind="other"), "plugin_same_file")
    monkeypatch.setenv(VARIABLE, "plugin_same_file")
    with pytest.raises(UserError, match=r"^plugins: plugin_same_file\.layers\.int8 has the name of compress_exp\.l"):
        kinds()
    monkeypatch.setenv(VARIABLE, "")
    assert set(kinds()) == before


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (None, r"^plugins: None is not allowed, a list of packages is, as in \[my_package\]$"),
        ("mine", r"^plugins: 'mine' is not allowed, a list of packages is"),
        (["../mine"], r"^plugins: '\.\./mine' is no name of a package"),
        ([3], r"^plugins: 3 is no name of a package"),
        (["no_such_package"], r"^plugins: there is no package 'no_such_package' here; install it, or put "),
        (["json.no_such"], r"^plugins: there is no package 'json\.no_such' here"),
        (["bisect"], r"^plugins: 'bisect' is a single file and no package"),
    ],
)
def test_what_is_no_package_is_refused_and_not_remembered(value, sentence, monkeypatch):
    monkeypatch.setenv(VARIABLE, "")
    with pytest.raises(UserError, match=sentence):
        use(value)
    assert plugins() == ()


def test_a_package_whose_own_import_fails_says_so_itself(package):
    name = package("families/x.py", "")
    package("__init__.py", "import no_such_dependency", name)
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        use([name])


def test_the_environment_names_packages_too_and_one_that_is_not_there_is_refused(package, monkeypatch):
    name = package("families/mine.py", "FAMILY = 1")
    monkeypatch.setenv(VARIABLE, f" {name},")
    assert modules("compress_exp.models.families")["mine"] == f"{name}.families.mine"
    monkeypatch.setenv(VARIABLE, "no_such_package")
    with pytest.raises(UserError, match=rf"^{VARIABLE}: there is no package 'no_such_package' here"):
        family_of("bert")
