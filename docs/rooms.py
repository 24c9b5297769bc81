"""The rooms of the package (its directories) and what they import, read from the code without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "compress_exp"


def modules(package: Path) -> dict[str, Path]:
    """Every file by the name that it is imported by."""
    parts = {path: path.relative_to(package.parent).with_suffix("").parts for path in package.rglob("*.py")}
    return {".".join(name[:-1] if name[-1] == "__init__" else name): path for path, name in parts.items()}


def imported(path: Path, known: Mapping[str, Path]) -> Iterator[str]:
    """The modules of the package that running a file imports, sooner or later."""
    tree = ast.parse(path.read_text())
    annotations = [
        node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    ]
    unused = {id(inner) for node in annotations for part in node.body for inner in ast.walk(part)}
    for node in ast.walk(tree):
        if id(node) in unused:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else node.module


def room(module: str, known: Mapping[str, Path]) -> str:
    """The directory that a module is in; the files beside `run.py` are rooms of their own."""
    place = known[module].parent
    return module if place == PACKAGE else str(place.relative_to(PACKAGE))


def graphs(known: Mapping[str, Path]) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """What each room imports, and what each file."""
    files = {name: set(imported(path, known)) - {name} for name, path in known.items()}
    rooms: dict[str, set[str]] = {}
    for name, used in files.items():
        own = room(name, known)
        rooms.setdefault(own, set()).update({room(other, known) for other in used} - {own})
    return rooms, files


def floors(rooms: Mapping[str, set[str]]) -> list[list[str]]:
    """The rooms by floor, the highest first: each stands one above the highest that it imports."""
    floor: dict[str, int] = {}
    for name in TopologicalSorter(rooms).static_order():
        floor[name] = 1 + max((floor[used] for used in rooms[name]), default=0)
    levels = sorted(set(floor.values()), reverse=True)
    return [sorted(name for name in floor if floor[name] == level) for level in levels]


def needed(rooms: Mapping[str, set[str]]) -> list[tuple[str, str]]:
    """The imports that no way through other rooms implies: what a picture needs."""
    reach: dict[str, set[str]] = {}
    for name in TopologicalSorter(rooms).static_order():
        reach[name] = set(rooms[name]).union(*(reach[used] for used in rooms[name]))
    return [
        (name, used)
        for name in sorted(rooms)
        for used in sorted(rooms[name])
        if not any(used in reach[other] for other in rooms[name] - {used})
    ]


def drawing() -> str:
    """The rooms of this package as a Mermaid graph, floors from top to bottom."""
    rooms = graphs(modules(PACKAGE))[0]
    lines = ["flowchart TB"]
    for number, names in enumerate(floors(rooms)):
        inside = "; ".join(f'{_id(name)}["{_label(name)}"]' for name in names)
        lines += [f"  subgraph floor{number} [ ]", "    direction LR", f"    {inside}", "  end"]
    lines += [f"  {_id(name)} --> {_id(used)}" for name, used in needed(rooms)]
    return "\n".join(lines)


def _label(name: str) -> str:
    own = name.rpartition(".")[2]
    return f"{own}.py" if "." in name else "__init__.py" if own == PACKAGE.name else own


def _id(name: str) -> str:
    return "room_" + name.replace(".", "_").replace("/", "_")
