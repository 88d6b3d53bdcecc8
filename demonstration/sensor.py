"""A motion sensor on a pseudo-terminal: real wrist recordings, at their own 50 Hz."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import tty
from pathlib import Path

from edgekit_optimize.zoo.recordings import motions

RATE_HZ = 50.0


class Sensor:
    """Writes ``ax,ay,az,gx,gy,gz`` lines to a serial line until it is stopped.

    ``path`` is the device node that an agent opens.
    """

    def __init__(self, watch: Path) -> None:
        self._recordings = motions(watch)
        self._controller, self._line = os.openpty()
        tty.setraw(self._line)
        os.set_blocking(self._controller, False)
        self.path = os.ttyname(self._line)
        self.lines = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._write, name="sensor", daemon=True)
        self._thread.start()

    def _write(self) -> None:
        due = time.monotonic()
        # every 20th recording, so that different exercises follow one another within the demonstration
        while True:
            for motion in self._recordings[::20]:
                for sample in motion.samples[: int(20 * RATE_HZ)]:
                    due += 1 / RATE_HZ
                    if self._stopped.wait(max(0.0, due - time.monotonic())):
                        return
                    line = ",".join(f"{value:.5f}" for value in sample) + "\n"
                    with contextlib.suppress(BlockingIOError):  # nobody reads: a sensor goes on regardless
                        os.write(self._controller, line.encode("ascii"))
                        self.lines += 1

    def close(self) -> None:
        """Stop writing and close the line."""
        self._stopped.set()
        self._thread.join(5)
        for descriptor in (self._controller, self._line):
            with contextlib.suppress(OSError):
                os.close(descriptor)
