"""SIGTERM and Ctrl-C during training: noted when they come, heeded at the end of the step."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from typing_extensions import Self

SIGNALS = (signal.SIGTERM, signal.SIGINT)
ECHO = 1.0
"""Seconds within which a launcher may pass on a Ctrl-C that its processes have had from the terminal already."""


class TrainingStopped(KeyboardInterrupt):
    """A signal ended training after a step, and the resume point of that step is on disk.

    Attributes:
        code: the exit code that a shell expects, 128 + the signal's number: 143 or 130.
    """

    def __init__(self, number: int, step: int) -> None:
        self.code = 128 + number
        name = signal.Signals(number).name
        super().__init__(f"stopped by {name} after step {step}; --resume goes on from there")


def stop_where_asked(number: int, step: int) -> None:
    """End training after this step where a signal, by its number, asks for that; 0 asks for nothing.

    Raises:
        TrainingStopped: it does.
    """
    if number:
        raise TrainingStopped(number, step)


class StopRequest:
    """Notes, while it is entered, a SIGTERM or SIGINT instead of ending the process; a second SIGINT ends it at once.

    The handlers that were there before are put back on leaving. A signal that is ignored stays so. Outside the main
    thread, where Python allows no handlers, nothing is noted.

    Args:
        echo: seconds after the first signal in which a SIGINT is not a second one.

    Attributes:
        received: number of the signal that came first; 0 where none did.
    """

    def __init__(self, echo: float = 0.0) -> None:
        self.received, self.echo = 0, echo
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                before = signal.getsignal(number)
                if before is not signal.SIG_IGN and before is not None:  # None: set by other than Python
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.received:
            self.received, self._since = number, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._since >= self.echo:
            raise KeyboardInterrupt
