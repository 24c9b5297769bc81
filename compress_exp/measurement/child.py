"""The measuring process: reads a job, does it, writes the answer. Started by `measurement.measure` only."""

from __future__ import annotations

import json
import signal
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

from compress_exp.parallel.cores import die_with_parent


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Do a job of one of the three kinds."""
    if job["what"] == "memory":
        from compress_exp.measurement.memory import peak

        return dict(peak(job))
    if job["what"] == "kernels":
        from compress_exp.measurement.kernels import check
        from compress_exp.runtimes.base import runtime

        return {name: check(runtime(name), job["largest"], Path(job["checks"])).error for name in job["runtimes"]}
    from compress_exp.measurement.comparison import compare

    return compare(job)


def main(path: str) -> None:
    """Do the job of a file and write `answer.json` beside it."""
    job = json.loads(Path(path).read_text())
    die_with_parent(job["parent"])
    # They are for the run, which ends this process with itself.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    warnings.filterwarnings("ignore")
    try:
        answer: dict[str, Any] = {"result": work(job)}
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(frame.filename).name}:{frame.lineno}"
        answer = {"error": str(error), "type": type(error).__name__, "where": where}
        answer["traceback"] = traceback.format_exc()
    Path(path).with_name(f"{Path(path).stem}.answer.json").write_text(json.dumps(answer))


if __name__ == "__main__":
    main(sys.argv[1])
