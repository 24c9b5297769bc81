"""What stands for stored modules in the graphs of runtimes: for each file of `layers/` that needs one, a file here.

It is found by its name, also in `forms/` of the user's packages, and has a function for each kind of graph that it
knows, `onnx` or `openvino`; a module without one is traced by its own forward pass.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from compress_exp.config.plugins import modules
from compress_exp.layers.stored import Stored


def form(layer: Stored, graph: str) -> Callable[..., Any] | None:
    """The function that puts a module into a kind of graph; None where its own forward pass is traced.

    Args:
        layer: of a compressed model.
        graph: "onnx": a function of the layer that gives a module, which is traced in its place; "openvino": a
            function of the layer and the node that is its input, which gives the node that is its output.
    """
    package, _, name = type(layer).__module__.partition(".")
    file = modules("compress_exp.runtimes.graphs.forms").get(name.rpartition(".")[2], "")
    return getattr(importlib.import_module(file), graph, None) if file.startswith(f"{package}.") else None
