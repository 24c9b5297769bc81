from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from filelock import SoftFileLease

from compress_exp.clean.__main__ import disk_bytes, main, remove
from compress_exp.clean.leftovers import leftovers
from compress_exp.clean.references import Reader
from compress_exp.outputs.files import digest
from compress_exp.outputs.lease import leased
from compress_exp.outputs.store import Store
from tests.status.test_status import killed_holder, member, run, sweep

BASELINE, STAGE, OTHER = ({"kind": "baseline", "seed": seed} for seed in range(3))
OWN = {"kind": "stage", "parent": digest(BASELINE)}


def build(outputs: Path, recipe: dict[str, object], place: str = "artifacts") -> str:
    """A finished directory of the real store, of 20 kB."""

    def fill(directory: Path, check: object) -> dict[str, object]:
        (directory / "model.safetensors").write_bytes(os.urandom(20_000))
        return {}

    return Store(outputs / place).get(recipe, fill, "x").name


def record(outputs: Path, name: str, *keys: str, **more: object) -> Path:
    directory = run(outputs, name)
    content = {"run": {"id": name}, "origin": {"artifact": keys[-1], "baseline": keys[0]}}
    (directory / "record.json").write_text(json.dumps(content | more))
    return directory


def listed(outputs: Path) -> dict[str, str]:
    found = leftovers(outputs, Reader(outputs).references())
    return {str(item.path.relative_to(outputs)): item.why for item in found}


def files(outputs: Path) -> set[str]:
    return {str(path.relative_to(outputs)) for path in outputs.rglob("*")}


def test_what_records_refer_to_stays_with_its_ancestors(tmp_path: Path) -> None:
    build(tmp_path, BASELINE)
    own, lost = build(tmp_path, OWN), build(tmp_path, OTHER)
    teacher = build(tmp_path, {"kind": "baseline", "seed": 9})
    record(tmp_path, "a", own, own, overrides=[f"teacher=outputs/artifacts/{teacher}"])
    assert listed(tmp_path) == {f"artifacts/{lost}": "no record refers to it"}


def test_what_unfinished_runs_of_a_sweep_refer_to_stays(tmp_path: Path) -> None:
    keys = [build(tmp_path, recipe) for recipe in (BASELINE, STAGE, OTHER)]
    finished = build(tmp_path, {"kind": "stage", "seed": 5})
    kept = build(tmp_path, {"kind": "baseline", "seed": 6})
    record(tmp_path, "done", keys[2])
    sweep(
        tmp_path,
        "x",
        member("missing", "seed=0", chain=keys[:2]),
        member("done", "seed=1", chain=[keys[2], finished], state="finished"),
        member("upto", "until=baseline", chain=[kept], until=0, state="finished"),
    )
    assert listed(tmp_path) == {f"artifacts/{finished}": "no record refers to it"}


def test_a_run_that_is_going_on_keeps_what_it_may_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = build(tmp_path, BASELINE)
    with leased(run(tmp_path, "single"), 60, "x"):
        assert listed(tmp_path) == {}
        assert main([str(tmp_path), "--yes"]) == 0
        assert "artifacts are kept: single is going on (process" in capsys.readouterr().out
    assert listed(tmp_path) == {f"artifacts/{key}": "no record refers to it"}
    sweep(tmp_path, "x", member("single", "seed=0", chain=[key]))
    lost = build(tmp_path, OTHER)
    with leased(tmp_path / "runs" / "single", 60, "x"):
        assert list(listed(tmp_path)) == [f"artifacts/{lost}"]


@pytest.mark.parametrize("place", ["runs/a/record.json", "sweeps/x/sweep.json"])
def test_while_a_file_is_damaged_no_artifact_goes(tmp_path: Path, place: str) -> None:
    build(tmp_path, BASELINE)
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).write_text('{"members": [')
    assert listed(tmp_path) == {}
    (doubt,) = Reader(tmp_path).references().doubts
    assert doubt == f"{tmp_path / place} is damaged; repeat its command or delete it"


def test_evaluations_and_exports_go_with_their_artifact(tmp_path: Path) -> None:
    kept, lost = build(tmp_path, BASELINE), build(tmp_path, OTHER)
    record(tmp_path, "a", kept)
    build(tmp_path, {"kind": "evaluation", "artifact": kept}, "evaluations")
    own = build(tmp_path, {"kind": "openvino", "artifact": lost}, "evaluations")
    gone = build(tmp_path, {"kind": "evaluation", "artifact": "0123456789abcdef"}, "evaluations")
    assert listed(tmp_path) == {
        f"artifacts/{lost}": "no record refers to it",
        f"evaluations/{gone}": "its artifact is gone",
        f"evaluations/{own}": "no record refers to its artifact",
    }
    sweep(tmp_path, "x", member("b", "seed=0", chain=["0123456789abcdef", lost]))
    assert list(listed(tmp_path)) == [f"evaluations/{gone}"]
    with leased(run(tmp_path, "b"), 60, "x"):  # which may be reading it
        assert listed(tmp_path) == {}


def test_what_interrupted_processes_left(tmp_path: Path) -> None:
    key = build(tmp_path, BASELINE)
    directory = record(tmp_path, f"tiny-{key}", key)
    for place in (
        f"artifacts/{key}.partial-1",
        "artifacts/live.partial-1",
        "evaluations/e.partial-1",
        f"runs/tiny-{key}/deploy.partial-1",
        f"artifacts/.{key}.old",
        f"runs/tiny-{key}/deploy",
        f"runs/tiny-{key}/.deploy.old",
        f"artifacts/.{key}.removed",
        f"wandb/.partial-{key}",
        f"tensorboard/.partial-{key}",
    ):
        (tmp_path / place).mkdir(parents=True)
    killed_holder(tmp_path / "evaluations" / "e")
    for name, age in ((".record.json.7.tmp", 7200), (".status.json.7.tmp", 0)):
        (directory / name).touch()
        os.utime(directory / name, (time.time() - age,) * 2)
    with leased(tmp_path / "artifacts" / "live", 60, "x"):
        assert listed(tmp_path) == {
            f"artifacts/{key}.partial-1": "half-built, nobody works on it",
            "evaluations/e.partial-1": "half-built, nobody works on it",
            f"artifacts/.{key}.old": "set aside, its successor is there",
            f"artifacts/.{key}.removed": "an earlier clean was interrupted",
            f"runs/tiny-{key}/deploy.partial-1": "half-built, nobody works on it",
            f"runs/tiny-{key}/.deploy.old": "set aside, its successor is there",
            f"wandb/.partial-{key}": "half-written by a tracker, nobody works on it",
            f"tensorboard/.partial-{key}": "half-written by a tracker, nobody works on it",
            "evaluations/.e.lease": "its holder is gone",
            f"runs/tiny-{key}/.record.json.7.tmp": "never renamed into place",
        }
        assert main([str(tmp_path), "--yes"]) == 0
        assert files(tmp_path) >= {"artifacts/live.partial-1", "artifacts/.live.lease"}
    assert listed(tmp_path) == {"artifacts/live.partial-1": "half-built, nobody works on it"}
    assert {path.name for path in directory.iterdir()} == {"record.json", "deploy", ".status.json.7.tmp"}
    assert Store(tmp_path / "artifacts").find(key) is not None


def test_what_a_sweep_goes_on_from_is_said_and_kept_while_it_is_going_on(tmp_path: Path) -> None:
    key = digest(BASELINE)
    half = tmp_path / "artifacts" / f"{key}.partial-1"
    half.mkdir(parents=True)
    sweep(tmp_path, "x", member("a", "seed=0", chain=[key]))
    assert list(listed(tmp_path).values()) == ["half-built, an unfinished run of a sweep would go on from it"]
    here = {"host": platform.node(), "pid": os.getpid(), "started": datetime.now(UTC).isoformat()}
    sweep(tmp_path, "y", member("a", "seed=0", chain=[key]), **here)
    assert listed(tmp_path) == {}


def test_a_build_one_rename_short_of_its_name_is_an_artifact(tmp_path: Path) -> None:
    key = build(tmp_path, BASELINE)
    half, aside = tmp_path / "artifacts" / f"{key}.partial-1", tmp_path / "artifacts" / f".{key}.old"
    for name, path in (("x", half), ("y", aside)):
        (tmp_path / "artifacts" / key).rename(path)
        assert listed(tmp_path) == {f"artifacts/{path.name}": "no record refers to it"}
        sweep(tmp_path, name, member("a", "seed=0", chain=[key]))
        assert listed(tmp_path) == {}
        (tmp_path / "sweeps" / name / "sweep.json").unlink()
        path.rename(tmp_path / "artifacts" / key)


def test_it_says_what_is_freed_and_removes_only_when_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = [build(tmp_path, recipe) for recipe in (BASELINE, OTHER)]
    du = subprocess.run(
        ["du", "-s", "-B1", *(tmp_path / "artifacts" / key for key in keys)], capture_output=True, text=True, check=True
    )
    taken = [int(line.split()[0]) for line in du.stdout.splitlines()]
    assert [disk_bytes(tmp_path / "artifacts" / key) for key in keys] == taken
    assert main([str(tmp_path)]) == 0
    before = files(tmp_path)
    assert f"{sum(taken) / 1e6:.1f} MB  in all; --yes removes it" in capsys.readouterr().out
    assert main([str(tmp_path)]) == 0 and files(tmp_path) == before
    assert main([str(tmp_path), "--yes"]) == 0
    assert f"{sum(taken) / 1e6:.1f} MB  freed" in capsys.readouterr().out
    assert files(tmp_path) == {"artifacts", "artifacts/builds.jsonl"}
    assert main([str(tmp_path), "--yes"]) == 0
    assert "there is nothing to remove" in capsys.readouterr().out
    assert main([str(tmp_path / "nowhere")]) == 1


def test_what_came_into_use_between_listing_and_removing_stays(tmp_path: Path) -> None:
    wanted, held, single = (build(tmp_path, recipe) for recipe in (BASELINE, STAGE, OTHER))
    (tmp_path / "artifacts" / "p.partial-1").mkdir()
    reader = Reader(tmp_path)
    found = leftovers(tmp_path, reader.references())
    assert len(found) == 4
    sweep(tmp_path, "x", member("a", "seed=0", chain=[wanted]))
    with leased(tmp_path / "artifacts" / held, 60, "x"), leased(tmp_path / "artifacts" / "p", 60, "x"):
        assert remove(found, reader) == 0
    left = {path.name for path in (tmp_path / "artifacts").iterdir() if path.is_dir()}
    assert left == {wanted, held, "p.partial-1"} and single not in left
    found = leftovers(tmp_path, reader.references())
    assert len(found) == 2
    with leased(run(tmp_path, "b"), 60, "x"):  # a run that no sweep knows
        assert remove(found, reader) == 0
    assert (tmp_path / "artifacts" / held).exists() and not (tmp_path / "artifacts" / "p.partial-1").exists()


def test_links_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "elsewhere"
    key = build(outside, BASELINE)
    outputs = tmp_path / "out"
    (outputs / "artifacts").mkdir(parents=True)
    (outputs / "artifacts" / key).symlink_to(outside / "artifacts" / key)
    lost = build(outputs, OTHER)
    (outputs / "artifacts" / lost / "link").symlink_to(outside)
    (outputs / "evaluations").symlink_to(outside / "artifacts")
    assert disk_bytes(outputs / "artifacts" / lost) < 40_000
    assert list(listed(outputs)) == [f"artifacts/{lost}"]
    before = files(outside)
    assert main([str(outputs), "--yes"]) == 0
    assert files(outside) == before and (outputs / "artifacts" / key).is_symlink()


def test_a_directory_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("another user is needed, and only root can become one")
    code = "import os, sys; from compress_exp.clean.__main__ import main; "
    code += "os.setuid(12345); sys.exit(main(sys.argv[1:]))"
    tmp_path.chmod(0o700)
    command = [sys.executable, "-c", code, str(tmp_path), "--yes"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, f"{tmp_path}: Permission denied\n")


def test_a_lease_that_ran_out_elsewhere_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "artifacts" / "k.partial-1").mkdir(parents=True)
    marker = tmp_path / "artifacts" / ".k.lease"
    with SoftFileLease(marker, lease_duration=0.5, thread_local=False):
        content = marker.read_text()
    marker.write_text(content.replace(os.uname().nodename, "gone-host"))
    os.utime(marker, (1, 1))
    assert main([str(tmp_path), "--yes"]) == 0
    assert files(tmp_path) == {"artifacts"}
