from __future__ import annotations

import json
import sys
from importlib import import_module

import pytest
from omegaconf import OmegaConf

from compress_exp.outputs.command import command
from compress_exp.outputs.manifest import FAILED, Identity, Manifest, Member, fingerprint, sweep_id

ASKED = Identity("run", "name-run", ("base", "stage"), None, None, False, {"accuracy": 1})


def manifest(tmp_path, mark="f"):
    return Manifest(tmp_path, ["seed=0,1", "method=prune"], "basic", mark)


def test_a_sweep_is_named_by_what_is_asked_for_in_any_order():
    assert sweep_id(["a=1", "b=2"]) == sweep_id(["b=2", "a=1"]) != sweep_id(["a=1", "b=3"])


def test_identities_are_known_again_and_those_of_refused_jobs_are_not(tmp_path):
    first = manifest(tmp_path)
    assert first.known() == {}
    first.write([Member(("seed=0",), ASKED, FAILED, "no luck"), Member(("seed=1",), None, "refused", "no")])
    assert manifest(tmp_path).known() == {("seed=0",): ASKED}
    assert manifest(tmp_path, "another configuration").known() == {}


@pytest.mark.parametrize("change", ["edit", "remove", "add"])
def test_a_change_of_a_local_path_that_a_job_names_makes_it_unknown(tmp_path, change):
    data = tmp_path / "data"
    data.mkdir()
    (data / "train.jsonl").write_text("{}\n")
    first = manifest(tmp_path)
    first.watch(OmegaConf.create({"task": {"data_dir": str(data)}, "outputs": str(tmp_path)}))
    assert list(first.watched) == [str(data)]
    first.write([Member(("seed=0",), ASKED)])
    assert manifest(tmp_path).known()
    if change == "edit":
        (data / "train.jsonl").write_text("{}\n{}\n")
    elif change == "remove":
        (data / "train.jsonl").unlink()
    else:
        (data / "validation.jsonl").write_text("{}\n")
    assert manifest(tmp_path).known() == {}


def test_the_fingerprint_sees_configuration_files_defaults_and_arguments(tmp_path):
    (tmp_path / "mine.yaml").write_text("a: 1\n")
    root, places = OmegaConf.create({"seed": 0, "hydra": {"x": 1}}), [("file", str(tmp_path))]
    before = fingerprint(root, places, ["a=1"])
    assert fingerprint(OmegaConf.create({"seed": 0, "hydra": {"x": 2}}), places, ["a=1"]) == before
    assert fingerprint(OmegaConf.create({"seed": 1}), places, ["a=1"]) != before
    assert fingerprint(root, places, ["a=2"]) != before
    (tmp_path / "mine.yaml").write_text("a: 22\n")
    assert fingerprint(root, places, ["a=1"]) != before


def test_the_environment_and_code_from_elsewhere_are_watched(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("version = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import_module("mine")
    monkeypatch.setenv("MYDATA", "a")
    config = {"task": {"data_dir": "${oc.env:MYDATA}"}, "method": {"own": {"_target_": "mine.Own"}}}
    first = manifest(tmp_path)
    first.watch(OmegaConf.create(config))
    first.write([Member(("seed=0",), ASKED)])
    assert manifest(tmp_path).known()
    monkeypatch.setenv("MYDATA", "b")
    assert manifest(tmp_path).known() == {}
    monkeypatch.setenv("MYDATA", "a")
    assert manifest(tmp_path).known()
    (tmp_path / "mine.py").write_text("version = 22\n")
    assert manifest(tmp_path).known() == {}


def test_a_damaged_file_is_as_good_as_none(tmp_path):
    first = manifest(tmp_path)
    first.write([Member(("seed=0",), ASKED)])
    content = json.loads(first.path.read_text())
    for broken in ("{", "[]", json.dumps(content | {"members": [{"run": "x"}]})):
        first.path.write_text(broken)
        assert manifest(tmp_path).known() == {}


def test_passwords_and_secrets_are_not_kept_with_the_command(monkeypatch):
    secrets = ["hydra.sweeper.storage=postgresql://me:hunter2@host/db", "+tracking.api_key=hunter2", "seed=1"]
    monkeypatch.setattr(sys, "argv", ["x", *secrets])
    assert "hunter2" not in command()
    assert command().endswith("seed=1")
