"""What the embedded broker refused of connected devices, read from its log: it reports this nowhere else."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from edgekit.core.spec import DEVICE_ID

REASONS = {
    "Publish Violation": "foreign topic",
    "Subscription Violation": "foreign subscription",
    "maximum payload exceeded": "too large",
}
"""What stands in the log, and what it is called here; what is too large closes the connection."""
MAX_READ_BYTES = 4 << 20
_LINE = re.compile(rb' - mid:\d+ - "([^"\n]{1,64})" - (' + "|".join(REASONS).encode() + rb")")


class BrokerLog:
    """Reads the lines that a log got since the last look; what is in it at first is not counted.

    Args:
        path: The log; it may be replaced by a new one at any time.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode, self._offset = self._state()

    def read(self) -> Counter[tuple[str, str]]:
        """Return how often the broker refused something since the last call, by device and reason."""
        inode, size = self._state()
        if inode != self._inode or size < self._offset:
            self._inode, self._offset = inode, 0
        if size == self._offset:
            return Counter()
        with self._path.open("rb") as file:
            file.seek(max(self._offset, size - MAX_READ_BYTES))
            data = file.read(MAX_READ_BYTES)
            end = data.rfind(b"\n") + 1
            self._offset = file.tell() - len(data) + end
        found = (
            (match[1].decode("ascii", "replace"), match[2].decode()) for match in _LINE.finditer(data[:end])
        )
        return Counter((device, REASONS[words]) for device, words in found if DEVICE_ID.fullmatch(device))

    def _state(self) -> tuple[int, int]:
        try:
            state = self._path.stat()
        except FileNotFoundError:
            return 0, 0
        return state.st_ino, state.st_size
