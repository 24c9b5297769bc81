"""The one owner of the signals that end a job, while it trains.

A signal only leaves a note. At the next batch boundary the checkpoint is written, then what the signal asks is done:
SIGUSR2 goes to whoever listened before (submitit requeues the job and exits), SIGTERM as well (submitit ignores it; the
checkpoint is there when SIGKILL comes) or ends the process, SIGINT interrupts it, the second SIGINT at once.
"""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

log = logging.getLogger("compress_exp")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


class Preemption:
    """Notes signals between entering and leaving, in the main thread only; ignored ones stay ignored.

    Attributes:
        noted: the signals that came and were not answered yet.
    """

    def __init__(self) -> None:
        self.noted: list[signal.Signals] = []
        self._before: dict[signal.Signals, Any] = {}
        self._interrupted = False

    def __enter__(self) -> Preemption:
        if threading.current_thread() is threading.main_thread():
            before = {number: signal.getsignal(number) for number in SIGNALS}
            self._before = {number: handler for number, handler in before.items() if _replaceable(handler)}
            for number in self._before:
                signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give every signal back to whom it belonged; one that no boundary followed is sent again."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if not isinstance(error, KeyboardInterrupt | SystemExit):
            for number in self.noted:
                signal.raise_signal(number)

    def take(self) -> list[signal.Signals]:
        """The signals noted so far, now the caller's to answer."""
        taken, self.noted = self.noted, []
        return taken

    def answer(self, signals: list[signal.Signals], step: int) -> None:
        """Do what signals ask, with the checkpoint of that step in place; training goes on if this returns.

        Raises:
            KeyboardInterrupt: for SIGINT.
            SystemExit: for the others, unless who listened before knows better.
        """
        for number in signals:
            log.warning("%s at step %d: the checkpoint is written", number.name, step)
            if number is signal.SIGINT:
                raise KeyboardInterrupt
            handler = self._before[number]
            if not callable(handler):
                raise SystemExit(128 + number)
            handler(number, None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._interrupted:
            raise KeyboardInterrupt
        self._interrupted |= number == signal.SIGINT
        self.noted.append(signal.Signals(number))


def _replaceable(handler: Any) -> bool:
    """Whether a handler can be put back: one that C code installed cannot, and what is ignored stays ignored."""
    return handler is not None and handler is not signal.SIG_IGN
