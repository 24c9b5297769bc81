"""What the documentation's build adds to the pages written by hand (MkDocs calls these functions by their names)."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from docs import catalogue, rooms

INTRODUCTIONS = {
    "prune": "What they have in common, and how to choose: [Pruning](../pruning.md).",
    "quant": "In which runtimes they are exact: [Where models run](../runtimes.md).",
    "distill": "What a student minimises: [Losses](loss.md).",
    "factorize": "Factors are layers of their own: later stages prune them and quantize them.",
    "share": "Fewer weights for as many layers: what is stored becomes smaller, what is computed stays the same.",
    "finetune": "The same extra training without compression.",
    "loss": "`loss=NAME` says what every training inside a stage minimises, `loss=[NAME,NAME]` the sum of several. A "
    "method with losses of its own has them in `method.<name>.loss`. The baseline always learns from hard labels.",
}
TITLES = {
    "prune": "Pruning",
    "quant": "Quantization",
    "distill": "Distillation",
    "factorize": "Factorization",
    "share": "Weight sharing",
    "loss": "Losses",
}
PICTURE = "<!-- rooms -->"
FROM_ROOT = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Give every family of methods a place in the navigation."""
    assert config.nav is not None
    section = next(entry for entry in config.nav if "Methods" in entry)
    section["Methods"] = [{title(name): f"methods/{name}.md"} for name in folders()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the catalogue, and the pages that lie in the repository's root."""
    for name, folder in folders().items():
        content = catalogue.page(title(name), INTRODUCTIONS.get(name, ""), folder)
        files.append(File.generated(config, f"methods/{name}.md", content=content))
    for name, place in FROM_ROOT.items():
        files.append(File.generated(config, place, content=moved((catalogue.ROOT / name).read_text())))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Draw the rooms where a page asks for them."""
    if PICTURE not in markdown:
        return markdown
    return markdown.replace(PICTURE, f"```mermaid\n{rooms.drawing()}\n```")


def folders() -> dict[str, Path]:
    """Where the variants of each family of methods are described, and the losses; one without variants is a file."""
    conf = catalogue.ROOT / "conf"
    families = [path for path in (conf / "method").iterdir() if not path.with_suffix("").is_dir() or path.is_dir()]
    return {path.stem: path for path in sorted(families)} | {"loss": conf / "loss"}


def title(name: str) -> str:
    """How the pages call a family of methods."""
    return TITLES.get(name, name.capitalize())


def moved(text: str) -> str:
    """A page of the repository's root as one of the documentation's: its links begin elsewhere."""
    for name, place in FROM_ROOT.items():
        text = text.replace(f"]({name}", f"]({place}")
    return text.replace("](docs/", "](")
