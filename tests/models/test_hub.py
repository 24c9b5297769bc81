"""Loading from the hub, offline, from a cache that the test fills itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from compress_exp.formats.artifact import save
from compress_exp.models.families.base import family_of
from compress_exp.models.tokenizers import train_tokenizer

CODE = """
import json, sys
from compress_exp.config.checks import UserError
from compress_exp.models.loading import Model
try:
    model = Model(name="x", hub=sys.argv[1])
    model.check()
    found = {"digest": model.identity()["content"], "kind": model.family().kind}
    print(json.dumps(found | {"tokens": len(model.tokenizer(None))}))
except UserError as error:
    print(json.dumps({"error": str(error)}))
"""


def ask(cache: Path, name: str) -> dict[str, object]:
    environment = {**os.environ, "HF_HOME": str(cache), "HF_HUB_CACHE": str(cache / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CODE, name], env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_a_cached_model_is_found_by_its_hub_name_and_a_missing_one_is_told(tiny, tmp_path):
    snapshot = tmp_path / "hub" / "models--some--bert" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    refs = tmp_path / "hub" / "models--some--bert" / "refs"
    refs.mkdir()
    (refs / "main").write_text("a" * 40)
    tokenizer = train_tokenizer(family_of("bert").text, 350, iter(["a text", "another text"]), 32)
    save(tiny("bert"), tokenizer, snapshot)
    answer = ask(tmp_path, "some/bert")
    assert answer["kind"] == "encoder"
    assert answer["tokens"] == len(tokenizer)
    missing = ask(tmp_path, "some/other")
    assert "model.hub: 'some/other' could not be fetched" in str(missing["error"])
