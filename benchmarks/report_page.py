"""How long the page of 500 synthetic records takes to be made and to be opened.

    python -m benchmarks.report_page [--smallest]

`--smallest` makes the page of 8 records and opens none.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from pathlib import Path

from rich.console import Console

from compress_exp.report.summary import report
from tests.chromium import CHROMIUM, DRIVER, SELENIUM, opened
from tests.report.synthetic import outputs

TIMES = """const [navigation] = performance.getEntriesByType("navigation");
const [paint] = performance.getEntriesByName("first-contentful-paint");
return [paint.startTime, navigation.loadEventEnd].map((time) => time / 1000)"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smallest", action="store_true")
    smallest = parser.parse_args().smallest
    with tempfile.TemporaryDirectory() as directory:
        place = outputs(Path(directory), 8 if smallest else 500)
        began, worked = time.perf_counter(), time.process_time()
        page = report(place, console=Console(file=io.StringIO()))[-1]
        took, worked = time.perf_counter() - began, time.process_time() - worked
        print(f"made in {took:.2f} s ({worked:.2f} s of a core), {page.stat().st_size / 1e6:.2f} MB")
        for _ in range(3 if not smallest and CHROMIUM and DRIVER and SELENIUM else 0):
            with opened(page) as browser:
                paint, load = browser.execute_script(TIMES)
                print(f"seen after {paint:.2f} s, table and boxes usable after {load:.2f} s")


if __name__ == "__main__":
    main()
