"""Own texts and labels, from a CSV file to an int8 model: python examples/own_data.py [key=value …].

It writes `mine/train.csv` and `mine/validation.csv` with the columns that the task expects, and runs on them. Every
key=value that follows is a setting of the run.
"""

from __future__ import annotations

import csv
import random
import subprocess
import sys
from pathlib import Path

PRAISE = ("quick", "friendly", "clear", "reliable", "well made")
BLAME = ("slow", "rude", "confusing", "broken", "badly made")
THINGS = ("service", "manual", "website", "delivery", "screen", "battery")


def written(file: Path, rows: int, seed: int) -> None:
    """Write seeded rows of two classes that differ by their adjectives."""
    draw = random.Random(seed)
    with file.open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["text", "label"])
        for _ in range(rows):
            label, words = draw.choice([("good", PRAISE), ("bad", BLAME)])
            first, second = draw.sample(THINGS, 2)
            text = f"The {first} was {draw.choice(words)}, and the {second} was {draw.choice(words)} too."
            table.writerow([text, label])


if __name__ == "__main__":
    directory = Path("mine")
    directory.mkdir(exist_ok=True)
    written(directory / "train.csv", 400, seed=1)
    written(directory / "validation.csv", 100, seed=2)
    command = [sys.executable, "-m", "compress_exp", "task=classification", f"task.data_dir={directory}"]
    sys.exit(subprocess.run([*command, "method=quant/static", *sys.argv[1:]]).returncode)
