"""A file beside the database with every enrolment and revocation, so that a restored backup can catch up.

::

    {"at_ms": 1795762304000, "what": "revoked", "device": "cam-7"}

A line is on disk before the database says the same. The file is only appended to; at 1 MiB the older half
is dropped.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from edgekit.base.files import write_durably
from edgekit.core.errors import StorageError
from edgekit.core.spec import DEVICE_ID

FILE = "identities.log"
MAX_BYTES = 1 << 20
What = Literal["enrolled", "revoked", "restored", "deleted"]


class Entry(msgspec.Struct, frozen=True):
    """One line: what happened to a device's identity, and when (Unix milliseconds)."""

    at_ms: int
    what: What
    device: str


@dataclass(frozen=True)
class Since:
    """What became of devices after a time: the last word about each."""

    enrolled: list[str]
    revoked: list[str]
    deleted: list[str]


class Journal:
    """The journal in one data folder; safe to share between threads."""

    def __init__(self, data: Path) -> None:
        self._path = data / FILE
        self._lock = threading.Lock()

    def add(self, what: What, device: str, at_ms: int) -> None:
        """Append a line durably.

        Raises:
            StorageError: The disk is full or broken.
        """
        line = msgspec.json.encode(Entry(at_ms, what, device)) + b"\n"
        try:
            with self._lock:
                descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                try:
                    os.write(descriptor, line)
                    os.fsync(descriptor)
                    size = os.fstat(descriptor).st_size
                finally:
                    os.close(descriptor)
                if size > MAX_BYTES:
                    kept = self._path.read_bytes()[-MAX_BYTES // 2 :].partition(b"\n")[2]
                    write_durably(self._path, kept, mode=0o600)
        except OSError as cause:
            raise StorageError(
                f"{self._path}: {cause.strerror}", hint="check that the disk has room"
            ) from cause

    def since(self, at_ms: int) -> Since:
        """Return what became of devices after a time; a damaged line, as after a power cut, is skipped."""
        last: dict[str, What] = {}
        lines = self._path.read_bytes().splitlines() if self._path.exists() else []
        for line in lines:
            try:
                entry = msgspec.json.decode(line, type=Entry)
            except msgspec.DecodeError:
                continue
            if entry.at_ms >= at_ms and DEVICE_ID.fullmatch(entry.device):
                last[entry.device] = "enrolled" if entry.what == "restored" else entry.what
        named = {what: sorted(d for d, w in last.items() if w == what) for what in set(last.values())}
        return Since(named.get("enrolled", []), named.get("revoked", []), named.get("deleted", []))
