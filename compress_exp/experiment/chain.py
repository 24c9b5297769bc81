"""The chain of an experiment: its baseline and the artifact of every stage, each built once and found again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from compress_exp.experiment.build import build_baseline, run_stage, use_threads
from compress_exp.experiment.plan import Plan
from compress_exp.experiment.record import sources
from compress_exp.experiment.teacher import keep_answers
from compress_exp.outputs.progress import Beat, Progress
from compress_exp.outputs.store import Store
from compress_exp.report.card import Names, publish_card

log = logging.getLogger("compress_exp")


def produce(
    plan: Plan, store: Store, progress: Progress, until: int, newer_than: float = 0.0, baseline_too: bool = False
) -> list[Path]:
    """Baseline and the artifact of every stage, in order; what is there is reused.

    Args:
        plan: the experiment.
        store: where artifacts are.
        progress: told what is built, step by step.
        until: the last stage that is wanted, counted from 1; 0 for the baseline alone.
        newer_than: stages finished before this time are built again.
        baseline_too: so is the baseline.
    """
    paths: list[Path] = []
    labels = dict(zip(plan.chain[1:], (stage.label for stage in plan.stages), strict=True))
    names = Names(plan.model.name, plan.task.name, labels, sources(plan))

    def get(recipe: dict[str, Any], label: str, since: float, build: Callable[[Path, Beat], dict[str, Any]]) -> Path:
        def make(directory: Path, check: Callable[[], None]) -> dict[str, Any]:
            started = time.monotonic()
            facts = build(directory, progress.beat(check))
            seconds = time.monotonic() - started
            log.info("%-24s built in %.0f s, %d steps -> %s", label, seconds, facts["steps"], store.path(recipe))
            return facts | {"seconds": seconds}

        progress.stage(label)
        return store.get(recipe, make, label, since)

    def add(path: Path) -> None:
        paths.append(path)
        publish_card(store.root, path.name, names)

    since = newer_than if baseline_too else 0.0
    add(get(plan.baseline_recipe, "baseline", since, lambda directory, beat: build_baseline(plan, directory, beat)))
    for index, stage in enumerate(plan.stages[:until]):
        parent = paths[-1]

        def ask(directory: Path, beat: Beat, index: int = index, parent: Path = parent) -> dict[str, Any]:
            use_threads(plan.stages[index].train)
            return keep_answers(plan, index, parent, paths[0], directory, beat)

        def build(
            directory: Path, beat: Beat, index: int = index, parent: Path = parent, label: str = stage.label
        ) -> dict[str, Any]:
            recipe = plan.answers[index]
            answers = None if recipe is None else get(recipe, f"answers for {label}", since, ask)
            progress.stage(label)
            return run_stage(plan, index, parent, paths[0], directory, beat, answers)

        add(get(plan.stage_recipe(index), stage.label, newer_than, build))
    return paths
