"""What is known of a model before it exists."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress_exp.methods.base import Facts
from compress_exp.models.families.base import block_sizes, input_widths, layer_counts
from compress_exp.models.loading import Model, read_config

if TYPE_CHECKING:
    from compress_exp.tasks.base import Task


def initial_facts(model: Model, task: Task) -> Facts:
    """What the configuration of the model says before anything is loaded."""
    family = model.family()
    config = read_config(model)
    vocabulary = None if model.directory is None else int(config.vocab_size)
    layers, (heads, neurons) = layer_counts(config, family), block_sizes(config, family)
    skeleton = None if model.directory is None else lambda: model.skeleton(task)
    widths, queries = input_widths(config, family), family.heads.queries(config)
    return Facts(family, layers, vocabulary, heads, neurons, widths=widths, queries=queries, skeleton=skeleton)
