"""What a broker refused of connected devices, read from its log: it reports this nowhere else."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgekit.core.spec import DEVICE_ID

FOREIGN_TOPIC = "foreign topic"
TOO_LARGE = "too large"
MAX_READ_BYTES = 4 << 20


@dataclass(frozen=True)
class Refusals:
    """How a broker's log says that it refused something of a device.

    Args:
        line: Its groups are the device and the broker's words.
        reasons: What the words are called here.
    """

    line: re.Pattern[bytes]
    reasons: Mapping[bytes, str]


class BrokerLog:
    """Reads the lines that a log got since the last look; what is in it at first is not counted.

    Args:
        path: The log; it may be replaced by a new one at any time.
        refusals: What to look for.
    """

    def __init__(self, path: Path, refusals: Refusals) -> None:
        self.path = path
        self._refusals = refusals
        self._inode, self._offset = self._state()

    def read(self) -> Counter[tuple[str, str]]:
        """Return how often the broker refused something since the last call, by device and reason."""
        inode, size = self._state()
        if inode != self._inode or size < self._offset:
            self._inode, self._offset = inode, 0
        if size == self._offset:
            return Counter()
        with self.path.open("rb") as file:
            file.seek(max(self._offset, size - MAX_READ_BYTES))
            data = file.read(MAX_READ_BYTES)
            end = data.rfind(b"\n") + 1
            self._offset = file.tell() - len(data) + end
        found = (
            (match[1].decode("ascii", "replace"), self._refusals.reasons[match[2]])
            for match in self._refusals.line.finditer(data[:end])
        )
        return Counter((device, reason) for device, reason in found if DEVICE_ID.fullmatch(device))

    def _state(self) -> tuple[int, int]:
        try:
            state = self.path.stat()
        except FileNotFoundError:
            return 0, 0
        return state.st_ino, state.st_size
