"""Numbers for JSON, which knows neither NaN nor infinity."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def finite(node: Any) -> Any:
    """A copy of plain lists and mappings with None for what is no finite number."""
    if isinstance(node, Mapping):
        return {str(name): finite(value) for name, value in node.items()}
    if isinstance(node, list | tuple):
        return [finite(item) for item in node]
    if isinstance(node, float) and not math.isfinite(node):
        return None
    return node
