"""What was begun and done, on disk: numbers that outlive the process, in a file of bounded size."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from edgekit.base.files import write_durably
from edgekit.core.errors import StorageError

logger = logging.getLogger(__name__)
SYNC_S = 1.0
_DIGITS = 16
_BEGUN = b"~"
"""Before a number that was begun; other versions of edgekit skip such a line."""
MOST_BEGUN = 4096
"""Numbers that were begun and never done: more than a pipeline and its sinks have in work."""


class DoneList:
    """A set of 64-bit numbers in a file; any thread may use it.

    A number is in the file once ``begin`` or ``add`` returns, so a kill forgets nothing; it is synced at most
    every ``SYNC_S``, so a power cut may forget the last ones. Where the disk takes none, numbers are kept in
    memory alone, and those that are done are counted in ``not_noted``.

    Args:
        path: The file.
        most: The most numbers to keep; beyond, the oldest half is forgotten.
    """

    def __init__(self, path: Path, most: int) -> None:
        self._path, self._most = path, most
        self._lock = threading.Lock()
        self._keys: dict[int, None] = {}
        self._begun: Counter[int] = Counter()
        """How often each was begun, and not done."""
        self._in_work: set[int] = set()
        """Those that were begun since ``open``."""
        self._synced_s = 0.0
        self.not_noted = 0

    def open(self) -> bool:
        """Read the file, and return whether there was none.

        Raises:
            StorageError: It can be neither read nor made.
        """
        with self._lock:
            try:
                is_new = not self._path.exists()
                data = b"" if is_new else self._path.read_bytes()
                for line in data.split(b"\n"):
                    digits = line.removeprefix(_BEGUN)
                    if len(digits) != _DIGITS:  # the last one may be half a line, of a power cut
                        continue
                    with contextlib.suppress(ValueError):
                        if line.startswith(_BEGUN):
                            self._begun[int(digits, 16)] += 1
                        else:
                            self._keys[int(digits, 16)] = None
                begun = [(key, times) for key, times in self._begun.items() if key not in self._keys]
                self._begun = Counter(dict(begun[-MOST_BEGUN:]))
                if is_new or not data.endswith(b"\n"):
                    self._rewrite()
            except OSError as cause:
                raise StorageError(f"{self._path}: cannot be written: {cause.strerror}") from cause
            return is_new

    def has(self, key: int) -> bool:
        """Return whether a number is done."""
        return key in self._keys

    def begun(self, key: int) -> int:
        """Return how often a number was begun, and not done: more than once if that ended the process."""
        return self._begun[key]

    def begin(self, key: int) -> None:
        """Note that a number is in work; it is no error if that cannot be noted."""
        with self._lock:
            self._begun[key] += 1
            self._in_work.add(key)
            with contextlib.suppress(OSError):
                self._append(_BEGUN + _lines([key]))

    def put_back(self) -> None:
        """Note that what is in work does not end the process, which ends for another reason."""
        with self._lock:
            again = [key for key in self._in_work if self._begun[key] > 1]
            for key in again:
                self._begun[key] -= 1
            self._in_work.clear()
            if again:
                with contextlib.suppress(OSError):
                    self._rewrite()

    def add(self, *keys: int) -> None:
        """Enter numbers as done."""
        with self._lock:
            self._keys.update(dict.fromkeys(keys))
            for key in keys:
                self._begun.pop(key, None)
                self._in_work.discard(key)
            try:
                self._append(_lines(keys))
            except OSError as cause:
                self.not_noted += len(keys)
                if self.not_noted == len(keys):
                    logger.warning("%s: what is done cannot be noted: %s", self._path, cause.strerror)

    def _append(self, data: bytes) -> None:
        with self._path.open("ab", buffering=0) as file:
            file.write(data)
            if time.monotonic() - self._synced_s > SYNC_S:
                os.fsync(file.fileno())
                self._synced_s = time.monotonic()

    def trim(self, in_use: int) -> None:
        """Forget the oldest numbers beyond ``most``, but keep twice as many as are ``in_use``."""
        with self._lock:
            if len(self._keys) <= max(self._most, 4 * in_use):
                return
            self._keys = dict.fromkeys(list(self._keys)[-max(self._most // 2, 2 * in_use) :])
            try:
                self._rewrite()
            except OSError as cause:
                logger.warning("%s: cannot be shortened: %s", self._path, cause.strerror)

    def _rewrite(self) -> None:
        begun = b"".join(_BEGUN + _lines([key]) for key in self._begun.elements())
        write_durably(self._path, _lines(self._keys) + begun)


def _lines(keys: Iterable[int]) -> bytes:
    return b"".join(b"%016x\n" % key for key in keys)
