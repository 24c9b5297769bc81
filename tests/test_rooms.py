"""Rooms (the directories of the package) import downwards only, imports inside functions counted; so do files."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from docs.rooms import PACKAGE, drawing, floors, graphs, imported, modules, needed

NAME = PACKAGE.name


@pytest.mark.parametrize("level", ["packages", "rooms", "files"])
def test_imports_go_downwards_only(level: str) -> None:
    rooms, files = graphs(modules(PACKAGE))
    assert len(rooms) > 30 and len(files) > 150 and rooms["compress_exp.run"]
    packages: dict[str, set[str]] = {}  # a room inside another counts as that
    for name, used in rooms.items():
        own = name.partition("/")[0]
        packages.setdefault(own, set()).update({other.partition("/")[0] for other in used} - {own})
    try:
        list(TopologicalSorter({"packages": packages, "rooms": rooms, "files": files}[level]).static_order())
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


def test_the_picture_has_every_room_once_and_every_arrow_points_down() -> None:
    rooms = {"cellar": set(), "hall": {"cellar"}, "attic": {"hall", "cellar"}, "shed": {"cellar"}}
    assert floors(rooms) == [["attic"], ["hall", "shed"], ["cellar"]]
    assert needed(rooms) == [("attic", "hall"), ("hall", "cellar"), ("shed", "cellar")]
    lines = drawing().splitlines()
    drawn = [line for line in lines if "[" in line and "subgraph" not in line]
    assert sum(line.count('["') for line in drawn) == len(graphs(modules(PACKAGE))[0])
    height = {part.strip().partition("[")[0]: place for place, line in enumerate(drawn) for part in line.split(";")}
    arrows = [line.split(" --> ") for line in lines if "-->" in line]
    assert arrows and all(height[own.strip()] < height[used] for own, used in arrows)
