"""Reads small kernel files below a root, so that captured boards and tests look like machines.

A file may be missing, empty, unreadable (a powered-down Jetson zone answers EAGAIN), an endless pipe, or
garbage: reading gives an empty value, never an error.
"""

# ruff: noqa: PTH110, PTH115, PTH116, PTH119, PTH207
# os.path answers False where pathlib raises PermissionError, and takes the file names of broken devices.

from __future__ import annotations

import glob
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

import msgspec

_TEXT_BYTES = 256 * 1024
_NAMES = 1024
_NUMBER = re.compile(r"-?[0-9]{1,18}")
_HEX = re.compile(r"(?:0[xX])?([0-9a-fA-F]{1,15})")
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")


class Access(msgspec.Struct, frozen=True):
    """Whether a device file exists, and whether this process may use it."""

    exists: bool
    is_usable: bool
    group: str = ""


class Tree:
    """A file system seen from ``root``; paths are absolute, as on the machine itself.

    Args:
        root: ``/``, or a folder that holds the files of another machine.
        on_read: Called with each path that is read (a capture records them).
    """

    def __init__(self, root: Path = Path("/"), on_read: Callable[[str], None] | None = None) -> None:
        self.root = os.path.realpath(root)
        self._on_read = on_read

    @property
    def is_live(self) -> bool:
        """Whether this is the running machine and not a captured one."""
        return self.root == "/"

    def text(self, path: str) -> str:
        """Return a file's text without control characters, at most 256 KiB; empty if unreadable."""
        return _UNPRINTABLE.sub("", self.raw(path).decode("utf-8", "replace")).strip()

    def strings(self, path: str) -> tuple[str, ...]:
        """Return the NUL-separated strings of a device tree property."""
        parts = self.raw(path).decode("utf-8", "replace").split("\0")
        return tuple(text for part in parts if (text := _UNPRINTABLE.sub("", part).strip()))

    def number(self, path: str) -> int | None:
        """Return the decimal number that a file holds, or None."""
        match = _NUMBER.match(self.text(path))
        return int(match.group()) if match else None

    def hexadecimal(self, path: str) -> int | None:
        """Return the hexadecimal number that a file holds, with or without ``0x``, or None."""
        match = _HEX.fullmatch(self.text(path))
        return int(match.group(1), 16) if match else None

    def raw(self, path: str) -> bytes:
        """Return up to 256 KiB of a regular file; empty if it cannot be read."""
        real = self._below(path)
        if real is None:
            return b""
        try:
            if not stat.S_ISREG(os.stat(real).st_mode):
                return b""
            descriptor = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, ValueError):
            return b""
        try:
            return _read_up_to(descriptor, _TEXT_BYTES)
        except OSError:
            return b""
        finally:
            os.close(descriptor)

    def names(self, pattern: str) -> tuple[str, ...]:
        """Return the paths that match a shell pattern, in natural order (2 before 10), at most 1024."""
        try:
            matches = glob.glob(pattern.lstrip("/"), root_dir=self.root)
        except (OSError, ValueError, re.error):
            return ()
        paths = sorted((f"/{name}" for name in matches if name.isprintable()), key=_natural)[:_NAMES]
        return tuple(path for path in paths if self.exists(path))

    def exists(self, path: str) -> bool:
        """Return whether a path exists."""
        real = self._below(path)
        return real is not None and os.path.exists(real)

    def link_name(self, path: str) -> str:
        """Return the last part of a symbolic link's target, such as a driver's name; empty if none."""
        if self._on_read is not None:
            self._on_read(path)
        try:
            target = os.readlink(self.root.rstrip("/") + path)
        except (OSError, ValueError):
            return ""
        return _clean_name(os.path.basename(target.rstrip("/")))

    def access(self, path: str) -> Access:
        """Return whether this process may read and write a device file.

        Below another root the mode bits decide, even for root.
        """
        real = self._below(path)
        try:
            status = None if real is None else os.stat(real)
        except (OSError, ValueError):
            status = None
        if real is None or status is None:
            return Access(exists=False, is_usable=False)
        is_usable = _may_use(real) if self.is_live else _mode_allows(status)
        return Access(exists=True, is_usable=is_usable, group=self._group(status.st_gid))

    def _below(self, path: str) -> str | None:
        """Return the real path, or None if a link leads out of the root."""
        if self._on_read is not None:
            self._on_read(path)
        joined = self.root.rstrip("/") + path
        if self.is_live:
            return joined
        try:
            real = os.path.realpath(joined)
        except (OSError, ValueError):
            return None
        return real if real == self.root or real.startswith(self.root + "/") else None

    def _group(self, gid: int) -> str:
        for line in self.text("/etc/group").splitlines():
            parts = line.split(":")
            if len(parts) > 2 and parts[2] == str(gid):
                return parts[0]
        return str(gid)


def _read_up_to(descriptor: int, count: int) -> bytes:
    """Read until the end: a kernel file may return less than requested."""
    parts: list[bytes] = []
    while count > 0 and (part := os.read(descriptor, count)):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _may_use(path: str) -> bool:
    can_use_effective = os.access in os.supports_effective_ids
    return os.access(path, os.R_OK | os.W_OK, effective_ids=can_use_effective)


def _mode_allows(status: os.stat_result) -> bool:
    mode = status.st_mode
    if status.st_uid == os.geteuid():
        return mode & 0o600 == 0o600
    if status.st_gid in {os.getegid(), *os.getgroups()}:
        return mode & 0o060 == 0o060
    return mode & 0o006 == 0o006


def _clean_name(name: str) -> str:
    return _UNPRINTABLE.sub("", os.fsencode(name).decode("utf-8", "replace"))


def _natural(path: str) -> list[tuple[int, str]]:
    return [(int(part[:18]), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", path)]
