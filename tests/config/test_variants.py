"""Two variants of one family in one list, as the command line and the notebook compose them."""

from __future__ import annotations

import pytest

from compress_exp.config.checks import UserError
from compress_exp.config.compose import compose
from compress_exp.config.variants import keys_of


@pytest.mark.parametrize(
    ("names", "keys"),
    [
        (["prune", "quant/static"], ["prune", "quant"]),
        (["prune/vocabulary", "prune/structured"], ["prune", "structured"]),
        (["distill", "prune/n_m", "quant", "prune/magnitude"], ["distill", "prune", "quant", "magnitude"]),
        (["prune/magnitude", "prune/magnitude"], ["prune", "magnitude"]),
    ],
)
def test_the_first_of_a_family_has_its_key_and_others_that_of_their_file(names: list[str], keys: list[str]) -> None:
    assert keys_of(names) == keys


def test_they_compose_in_the_order_written_and_take_settings_by_their_keys() -> None:
    line = "method=[prune/vocabulary,quant/static,prune/structured,distill]"
    config = compose([line, "method.structured.sparsity=0.3", "method.structured.train.max_steps=7"])
    assert list(config.method) == ["prune", "quant", "structured", "distill"]
    assert [node.name for node in config.method.values()] == [
        "prune/vocabulary",
        "quant/static",
        "prune/structured",
        "distill/soft_targets",
    ]
    assert config.method.structured.sparsity == 0.3 and config.method.structured.train.max_steps == 7
    assert config.method.structured.train.batch_size == config.train.batch_size
    assert config.method.distill.loss.soft_targets.temperature == 2.0


def test_a_list_without_such_a_pair_and_a_single_choice_stay_as_they_are() -> None:
    assert list(compose(["method=[prune,quant]"]).method) == ["prune", "quant"]
    assert list(compose(["method=prune/wanda"]).method) == ["prune"]


def test_a_third_of_one_name_is_refused_with_what_to_write() -> None:
    with pytest.raises(UserError, match=r"two in one list have the key prune; write .* \+method@method\.prune2="):
        compose(["method=[prune,prune,prune]"])
