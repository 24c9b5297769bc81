"""What stands for stored modules in the graphs of runtimes: for each file of `layers/` that needs one, a file here.

It is found by its name and has a function for each kind of graph that it knows, `onnx` or `openvino`; a module without
one is traced by its own forward pass.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from compress_exp import layers
from compress_exp.layers.stored import Stored


def form(layer: Stored, graph: str) -> Callable[..., Any] | None:
    """The function that puts a module into a kind of graph; None where its own forward pass is traced.

    Args:
        layer: of a compressed model.
        graph: "onnx": a function of the layer that gives a module, which is traced in its place; "openvino": a
            function of the layer and the node that is its input, which gives the node that is its output.
    """
    return getattr(_file(type(layer).__module__.removeprefix(f"{layers.__name__}.")), graph, None)


@functools.cache
def _file(name: str) -> Any:
    own = (Path(__file__).parent / f"{name}.py").is_file()
    return importlib.import_module(f"{__package__}.{name}") if own else None
