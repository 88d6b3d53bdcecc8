"""Watches the room on the fleet's disk: says when it is low, makes room, and keeps a reserve.

A full disk must not be silent and must not be for ever. Well before it is full, the oldest rows are
deleted. When it is, messages are no longer stored and so not acknowledged: they wait in the devices. The
reserve is given up then, so that the fleet manager can still start, say what is wrong, and delete.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgekit.core.errors import StorageError
from edgekit_fleet.store.database import Database
from edgekit_fleet.store.messages import Messages

logger = logging.getLogger(__name__)

RESERVE_FILE = "reserve"
MAX_RESERVE_BYTES = 8 << 20
MAX_FLOOR_BYTES = 32 << 20
TICK_S = 1.0
_SHARE = 20
"""Of a small disk, reserve and floor are a twentieth each."""
_KEPT_ROWS = 1000
_LOW_LOOKS = 3
_CHUNKS = 5

Level = Literal["enough", "low", "full"]


@dataclass(frozen=True)
class Room:
    """The room on a disk: its size, and what is free for messages, without the reserve; bytes."""

    total: int
    free: int

    @property
    def reserve(self) -> int:
        """The size of the reserve."""
        return min(MAX_RESERVE_BYTES, self.total // _SHARE)

    @property
    def floor(self) -> int:
        """Below this much free, the disk is full; below twice as much, the room is low."""
        return min(MAX_FLOOR_BYTES, self.total // _SHARE)

    @property
    def level(self) -> Level:
        """Whether there is enough room.

        >>> [Room(1 << 30, free << 20).level for free in (65, 64, 32, 31)]
        ['enough', 'low', 'low', 'full']
        """
        if self.free < self.floor:
            return "full"
        return "low" if self.free <= 2 * self.floor else "enough"


def room_of(folder: Path) -> Room:
    """Return the room on the disk of a folder; a reserve that is given up counts as used."""
    disk = os.statvfs(folder)
    room = Room(disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize)
    is_reserved = (folder / RESERVE_FILE).exists()
    return room if is_reserved else Room(room.total, max(room.free - room.reserve, 0))


def give_up_reserve(folder: Path) -> None:
    """Delete the reserve if the disk is full: called before anything is opened at a start."""
    if (folder / RESERVE_FILE).exists() and room_of(folder).level == "full":
        (folder / RESERVE_FILE).unlink(missing_ok=True)


class DiskWatch:
    """Looks at the disk each second, on a thread of its own.

    Args:
        folder: The fleet's data folder.
        database: Its database.
        messages: Has the oldest rows deleted.
        pause: Called with the reason why messages are not stored; with "" when they are again.
    """

    def __init__(
        self, folder: Path, database: Database, messages: Messages, pause: Callable[[str], None]
    ) -> None:
        self._folder, self._database, self._messages, self._pause = folder, database, messages, pause
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="disk-watch", daemon=True)
        self.problem = ""
        """What is wrong with the disk, for people; empty while there is enough room."""
        self.is_full = False
        self._low_looks = 0
        self.trimmed = 0
        """Rows deleted to make room."""

    def start(self) -> None:
        """Look once, then each second."""
        self.look()
        self._thread.start()

    def stop(self) -> None:
        """Stop looking; safe twice."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(TICK_S + 30)

    def _run(self) -> None:
        while not self._stopping.wait(TICK_S):
            self.look()

    def look(self) -> None:
        """Look at the disk now, and do what its room asks for."""
        room = room_of(self._folder)
        if room.level != "enough":
            with contextlib.suppress(StorageError):
                self._database.shorten_log()
            room = room_of(self._folder)
        was_full, self.is_full = self.is_full, room.level == "full"
        if room.level == "full":
            give_up_reserve(self._folder)
        else:
            self._reserve(room)
        self._low_looks = self._low_looks + 1 if room.level == "low" else 0
        if self._low_looks >= _LOW_LOOKS:
            self._make_room(room)
        self.problem = self._say(room)
        self._pause(self.problem if self.is_full else "")
        if was_full != self.is_full:
            logger.error("%s", self.problem) if self.is_full else logger.warning("the disk has room again")

    def _say(self, room: Room) -> str:
        if room.level == "enough":
            return ""
        free = f"The disk of {self._folder} has {room.free >> 20} MiB free"
        if room.level == "low":
            return f"{free}: the oldest messages are deleted to make room."
        return (
            f"{free}, less than {room.floor >> 20} MiB: messages are not stored and not acknowledged, and"
            " wait in the devices. Make room; everything goes on by itself."
        )

    def _make_room(self, room: Room) -> None:
        """Delete the oldest rows until the database has room inside, so that its file stops growing.

        Not on a full disk: it would not get room by it, and whatever filled it may be gone in a minute.
        """
        with contextlib.suppress(StorageError):
            for _ in range(_CHUNKS):
                if self._database.free_bytes() > 2 * room.floor:
                    return
                rows = self._messages.counts()
                kept = max(max(rows["metrics"], rows["events"]) * 9 // 10, _KEPT_ROWS)
                self.trimmed += self._messages.trim(0, max_rows=kept)

    def _reserve(self, room: Room) -> None:
        path = self._folder / RESERVE_FILE
        if path.exists():
            return
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, room.reserve)
            except OSError:
                path.unlink(missing_ok=True)
            finally:
                os.close(descriptor)
