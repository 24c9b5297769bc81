"""The catalogue of methods and losses: what their files say of themselves, and the settings that their YAML offers."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]


def page(title: str, introduction: str, folder: Path) -> str:
    """A page with a section for every YAML file of a folder, or of a single file.

    Args:
        title: of the page.
        introduction: what stands before the sections, in Markdown.
        folder: a directory in `conf`, or a file.
    """
    files = sorted(folder.glob("*.yaml")) if folder.is_dir() else [folder]
    return "\n\n".join([f"# {title}", introduction, *map(_section, files)]) + "\n"


def _section(file: Path) -> str:
    text = file.read_text()
    target = str(yaml.safe_load(text)["_target_"])
    source = source_of(target)
    tree = ast.parse(source.read_text())
    told = [prose(ast.get_docstring(tree) or ""), attributes(tree, target.rpartition(".")[2])]
    if offered := settings(text):
        told.append(f"```yaml\n{offered}\n```")
    name = yaml.safe_load(text).get("name", f"{file.parent.name}={file.stem}")
    place = f"`{source.relative_to(ROOT)}`, `{file.relative_to(ROOT)}`"
    return "\n\n".join([f"## {name}", *filter(None, told), place])


def attributes(tree: ast.Module, name: str) -> str:
    """What a class says of its settings, as a list."""
    own = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    told = re.search(r"^(?:Attributes|Args):\n((?:    .*\n?)+)", ast.get_docstring(own) or "", re.MULTILINE)
    lines = re.findall(r"^    (\w+): ((?:.*\n?)(?:     .*\n?)*)", told[1], re.MULTILINE) if told else []
    return "\n".join(f"- `{item}`: {' '.join(prose(text).split())}" for item, text in lines)


def source_of(target: str) -> Path:
    """The file of a class by its dotted name, without importing it."""
    return ROOT.joinpath(*target.split(".")[:-1]).with_suffix(".py")


def settings(text: str) -> str:
    """A YAML file with its comments, without what composes it."""
    body = re.sub(r"\A(# @package.*\n)?((?!# @package)#.*\n)*", lambda found: found[2] or "", text)
    body = re.sub(r"^defaults:\n(  .*\n)+", "", body, flags=re.MULTILINE)
    return re.sub(r"^(_target_|name):.*\n", "", body, flags=re.MULTILINE).strip()


def prose(text: str) -> str:
    """A docstring as Markdown: formulas keep their signs, papers become links, lines of a list of facts stay apart."""
    parts = re.split(r"(`[^`]*`)", text)
    parts[::2] = [re.sub(r"([\\*_\[\]])", r"\\\1", part).replace("<", "&lt;") for part in parts[::2]]
    told = re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", "".join(parts))
    told = re.sub(r"(?m)^(Defaults|Deviations?|Cost|Scores)\b", r"\n**\1**", told)
    first, _, rest = told.partition("\n\n")
    return f"{first}\n\n{rest}".strip()
