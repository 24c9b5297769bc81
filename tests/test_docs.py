"""The catalogue says what files say, and the code that pages show works as written."""

from __future__ import annotations

import ast
import html
import re
import sys
from pathlib import Path
from types import ModuleType

import markdown
import pytest
import torch
import yaml
from torch.nn import functional

from compress_exp.losses.criteria import Criteria
from docs import catalogue, hooks

ROOT = Path(__file__).resolve().parents[1]
VARIANTS = sorted((ROOT / "conf" / "method").glob("*/*.yaml"))


@pytest.mark.parametrize("file", VARIANTS, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_a_section_says_what_the_file_and_its_yaml_say(file):
    content = yaml.safe_load(file.read_text())
    source = catalogue.source_of(content["_target_"])
    told = ast.get_docstring(ast.parse(source.read_text()))
    section = catalogue.page("", "", hooks.folders()[file.parent.name]).partition(f"## {content['name']}\n")[2]
    shown = markdown.markdown(section.partition("\n- `")[0].partition("\n```")[0])
    assert html.unescape(re.sub(r"<[^>]+>", "", shown)).split() == told.replace("`", "").split()
    offered = yaml.safe_load(section.partition("```yaml\n")[2].partition("```")[0])
    assert offered == {name: value for name, value in content.items() if name not in ("defaults", "_target_", "name")}


def test_settings_are_explained_by_their_class():
    section = catalogue.page("", "", hooks.folders()["quant"]).partition("## quant/int8\n")[2]
    assert "- `calibration`: batches of training rows that set the first input ranges.\n" in section
    assert "which needs VNNI or AMX on x86. Embeddings keep" in section  # a line that goes on


def test_links_of_the_readme_lead_into_the_documentation():
    assert hooks.moved("[a](docs/x/y.md#z) [b](CHANGELOG.md) [c](https://d)") == (
        "[a](x/y.md#z) [b](changelog.md) [c](https://d)"
    )


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)


def executed(code: str, name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    exec(compile(code, name, "exec"), vars(module))
    return module


def test_the_method_that_is_shown_passes_the_test_that_is_shown(tiny, context, budget, monkeypatch):
    code, test = blocks("extend/method.md", "python")
    module = executed(code, "compress_exp.methods.prune.largest", monkeypatch)
    executed(test, "shown", monkeypatch).test_half_is_zero_and_the_rest_is_smaller(tiny, context, budget)
    (settings,) = blocks("extend/method.md", "yaml")
    named = yaml.safe_load(settings)
    assert named["_target_"] == f"{module.__name__}.LargestPruning"
    assert module.LargestPruning(name=named["name"], train=budget, sparsity=0.5).identity()["origin"] == named["name"]


def test_the_loss_that_is_shown_is_the_mean_squared_error(monkeypatch, tiny):
    (code,), (settings,) = blocks("extend/loss.md", "python"), blocks("extend/loss.md", "yaml")
    module = executed(code, "compress_exp.losses.logits", monkeypatch)
    assert yaml.safe_load(settings)["_target_"] == f"{module.__name__}.LogitLoss"
    loss, model = module.LogitLoss(weight=2.0), tiny("bert")
    own, other = torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 1.0]])
    terms = Criteria({"logits": loss}, model, model, 0)({"logits": own}, {"logits": other}, torch.tensor([0]))
    assert float(terms["logits"]) == 2.0 * float(functional.mse_loss(own, other)) == 5.0
    assert loss.identity() == {"origin": "logits", "version": 1, "weight": 2.0}
