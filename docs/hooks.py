"""What the documentation's build adds to the pages written by hand (MkDocs calls these functions by their names)."""

from __future__ import annotations

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from docs import catalogue, rooms

CATALOGUE = {
    "prune": ("Pruning methods", "What they have in common, and how to choose: [Pruning](../pruning.md)."),
    "quant": ("Quantization methods", "In which runtimes they are exact: [Where models run](../runtimes.md)."),
    "distill": ("Distillation methods", "What a student minimises: [Losses](losses.md)."),
    "finetune.yaml": ("The dense control", "The same extra training without compression."),
}
LOSSES = (
    "Losses",
    "`loss=NAME` says what every training inside a stage minimises; a method with a loss of its own has it in "
    "`method.<name>.loss`. The baseline always learns from hard labels.",
)
PICTURE = "<!-- rooms -->"
FROM_ROOT = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the catalogue, and the pages that lie in the repository's root."""
    made = {f"methods/{name.removesuffix('.yaml')}.md": (*told, "method/" + name) for name, told in CATALOGUE.items()}
    made["methods/losses.md"] = (*LOSSES, "loss")
    for place, (title, introduction, folder) in made.items():
        content = catalogue.page(title, introduction, catalogue.ROOT / "conf" / folder)
        files.append(File.generated(config, place, content=content))
    for name, place in FROM_ROOT.items():
        files.append(File.generated(config, place, content=moved((catalogue.ROOT / name).read_text())))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Draw the rooms where a page asks for them."""
    if PICTURE not in markdown:
        return markdown
    return markdown.replace(PICTURE, f"```mermaid\n{rooms.drawing()}\n```")


def moved(text: str) -> str:
    """A page of the repository's root as one of the documentation's: its links begin elsewhere."""
    for name, place in FROM_ROOT.items():
        text = text.replace(f"]({name}", f"]({place}")
    return text.replace("](docs/", "](")
