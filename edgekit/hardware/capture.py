"""Captures the files that detection reads, to examine and test a board elsewhere."""

from __future__ import annotations

import io
import os
import re
import stat
import tarfile
from pathlib import Path

from edgekit.core.spec import Facts, Profile
from edgekit.hardware.cpu import architecture
from edgekit.hardware.detect import detect_in
from edgekit.hardware.sensors import Sensors
from edgekit.hardware.tree import Tree

# Names of users, which detection reads only to name a node's group.
_LEFT_OUT = ("/etc/group",)
# A Raspberry Pi's serial number, and the identity of an NVIDIA card.
_SERIAL = re.compile(rb"^(?:Serial|GPU UUID)\s*:.*\n?", re.MULTILINE)


def capture(root: Path, file: Path, profile: Profile) -> Facts:
    """Write a gzipped tar of everything that detection and sensors read on a machine.

    Unpacked, it is a root for ``--sysfs-root``. It has no serial number, user name or address. A
    device file becomes an empty file, of mode 0600 if this user may read and write it, else 0400.

    Args:
        root: The machine's root, usually ``/``.
        file: The archive to write.
        profile: The profile that names the sensors.

    Raises:
        OSError: The archive cannot be written.
    """
    seen: set[str] = set()
    tree = Tree(root, seen.add)
    facts = detect_in(tree)
    Sensors(tree, profile.telemetry).read()
    quiet = Tree(root)
    with tarfile.open(file, "w:gz") as archive:
        added: set[str] = set()
        arch = architecture(quiet).encode()
        _add(archive, added, "/proc/sys/kernel/arch", arch, 0o644)
        for path in sorted(seen):
            if path not in _LEFT_OUT and path not in added:
                _add_path(archive, added, quiet, path)
    return facts


def _add_path(archive: tarfile.TarFile, added: set[str], tree: Tree, path: str) -> None:
    if path.endswith("/driver") and (name := tree.link_name(path)):  # only that name counts
        link = tarfile.TarInfo(path.lstrip("/"))
        link.type, link.linkname = tarfile.SYMTYPE, name
        archive.addfile(link)
        added.add(path)
        return
    try:
        mode = os.stat(tree.root.rstrip("/") + path).st_mode  # noqa: PTH116 - root is a string
    except OSError:
        return
    if path.startswith("/dev/") and not stat.S_ISDIR(mode):
        _add(archive, added, path, b"", 0o600 if tree.access(path).is_usable else 0o400)
    elif stat.S_ISREG(mode):
        content = b"" if ".so" in path or path.startswith("/opt/") else tree.raw(path)
        _add(archive, added, path, _SERIAL.sub(b"", content), 0o644)
    elif stat.S_ISDIR(mode):
        folder = tarfile.TarInfo(path.lstrip("/"))
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(folder)
        added.add(path)


def _add(archive: tarfile.TarFile, added: set[str], path: str, content: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(path.lstrip("/"))
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))
    added.add(path)
