"""Rooms (the directories of the package) import downwards only, imports inside functions counted; so do files."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import compress_exp

PACKAGE = Path(compress_exp.__file__).parent
NAME = PACKAGE.name


def modules(package: Path) -> dict[str, Path]:
    """Every file by the name that it is imported by."""
    parts = {path: path.relative_to(package.parent).with_suffix("").parts for path in package.rglob("*.py")}
    return {".".join(name[:-1] if name[-1] == "__init__" else name): path for path, name in parts.items()}


def imported(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules of the package that running a file imports, sooner or later."""
    tree = ast.parse(path.read_text())
    annotations = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node)]
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


def room(module: str, known: dict[str, Path]) -> str:
    """The directory that a module is in; the files beside `run.py` are rooms of their own."""
    place = known[module].parent
    return module if place == PACKAGE else str(place.relative_to(PACKAGE))


def graphs(known: dict[str, Path]) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """What each room imports, and what each file."""
    files = {name: set(imported(path, known)) - {name} for name, path in known.items()}
    rooms: dict[str, set[str]] = {}
    for name, used in files.items():
        own = room(name, known)
        rooms.setdefault(own, set()).update({room(other, known) for other in used} - {own})
    return rooms, files


@pytest.mark.parametrize("level", ["rooms", "files"])
def test_imports_go_downwards_only(level: str) -> None:
    rooms, files = graphs(modules(PACKAGE))
    assert len(rooms) > 30 and len(files) > 150 and rooms["compress_exp.run"]
    try:
        list(TopologicalSorter(rooms if level == "rooms" else files).static_order())
    except CycleError as error:
        pytest.fail(f"a circle of {level}: {' -> '.join(error.args[1])}")


def test_a_late_import_upwards_is_found(tmp_path: Path) -> None:
    package = tmp_path / NAME
    for file, text in {
        "a/one.py": f"def late():\n    from {NAME}.b import two\n",
        "b/two.py": f"import {NAME}.a.one",
    }.items():
        (package / file).parent.mkdir(parents=True)
        (package / file).write_text(text)
    known = modules(package)
    assert set(imported(known[f"{NAME}.a.one"], {**known, f"{NAME}.b": package})) == {f"{NAME}.b.two"}


def test_the_root_holds_the_doors_only() -> None:
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py", "run.py", "hf.py"}
