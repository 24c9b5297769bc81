"""How an artifact's `config.json` tells, under `quantization_config`, what its model and its tensors are.

Format 2 lists modules by kind and specification, and the codec of every tensor that is not stored as it is. Format 1,
which is read for ever, knew two kinds of int8 modules, and the names of its pieces tell the codec of a pruned weight.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from compress_exp.config.checks import UserError
from compress_exp.layers.blueprint import Blueprint

METHOD = "compress_exp"
FORMAT = 2
SHAPES = ("heads", "neurons")
FIRST_KINDS = ("int8_linear", "int8_embedding")
ANY = "any"
"""In the place of a codec's name: the pieces that are there tell which."""

Modules = dict[str, tuple[str, dict[str, Any]]]


@dataclass(frozen=True)
class Description:
    """What is needed to read an artifact.

    Attributes:
        blueprint: of the model.
        tensors: the codec of each tensor that is not stored as it is, by the tensor's name.
    """

    blueprint: Blueprint = field(default_factory=Blueprint)
    tensors: Mapping[str, str] = field(default_factory=dict)


def write(description: Description) -> dict[str, Any] | None:
    """The node of format 2; None for a model that is an ordinary one, stored as it is."""
    blueprint = description.blueprint
    if blueprint.ordinary:
        return None
    groups: dict[str, dict[str, Any]] = {}
    for name, (kind, spec) in blueprint.modules.items():
        group = {"kind": kind, "spec": spec, "names": []}
        groups.setdefault(json.dumps([kind, spec], sort_keys=True), group)["names"].append(name)
    return {
        "quant_method": METHOD,
        "format": FORMAT,
        "modules": list(groups.values()),
        "tensors": dict(description.tensors),
        "tied": dict(blueprint.tied),
        "pruned": list(blueprint.pruned),
        **({"shared": dict(blueprint.shared)} if blueprint.shared else {}),
        **{name: dict(blueprint.shapes[name]) for name in SHAPES if name in blueprint.shapes},
    }


def read(node: Mapping[str, Any]) -> Description:
    """What a node of either format says.

    Raises:
        UserError: the format is newer than this release, or the node is damaged.
    """
    version = node.get("format")
    if version not in (1, FORMAT):
        raise UserError(f"artifact: format {version} is newer than this release of compress_exp reads ({FORMAT})")
    try:
        shapes = {name: dict(node[name]) for name in SHAPES if node.get(name)}
        pruned = tuple(map(str, node["pruned"]))
        if version == 1:
            modules: Modules = {name: (kind, {}) for kind in FIRST_KINDS for name in node[kind]}
            tensors = {f"{name}.weight": ANY for name in pruned}
        else:
            groups = [(str(group["kind"]), dict(group["spec"]), group["names"]) for group in node["modules"]]
            modules = {str(name): (kind, spec) for kind, spec, names in groups for name in names}
            tensors = {str(name): str(codec) for name, codec in node["tensors"].items()}
        for tensor in tensors:
            if (owner := tensor.rpartition(".")[0]) not in pruned and owner not in modules:
                raise ValueError(f"{tensor} has a codec, and {owner} is not pruned")
        shared = {str(name): str(source) for name, source in (node.get("shared") or {}).items()}
        return Description(Blueprint(shapes, modules, dict(node["tied"]), pruned, shared), tensors)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"quantization_config of config.json is damaged ({error!r})"
        raise UserError(f"artifact: {what}; copy it again") from error
