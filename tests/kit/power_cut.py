"""A disk in memory whose power is cut, and which forgets what was not synced."""

from __future__ import annotations

from pathlib import Path


class PowerCutError(Exception):
    pass


class PowerCutDisk:
    """Files in memory: names survive a cut only when their folder was synced after the change.

    Of the changes that were not synced, those whose bit of ``kept`` is set survive (a file system
    may write them out in any order). Content that ``write`` synced survives with its name.
    """

    def __init__(self, files: dict[Path, bytes], cut_at: int = -1, kept: int = 0) -> None:
        self.files = dict(files)
        self.durable = dict(files)
        self.unsynced: list[tuple[Path, Path, dict[Path, bytes | None]]] = []
        self.left = cut_at
        self.kept = kept

    def _count(self) -> None:
        if self.left == 0:
            raise PowerCutError
        self.left -= 1

    def _change(self, folder: Path, changes: dict[Path, bytes | None]) -> None:
        self._count()
        for path, data in changes.items():
            self.files.pop(path, None) if data is None else self.files.__setitem__(path, data)
        self.unsynced.append((folder, folder, changes))

    def after_reboot(self) -> PowerCutDisk:
        files = dict(self.durable)
        for place, (_, _, changes) in enumerate(self.unsynced):
            if self.kept >> (place % 4) & 1:
                for path, data in changes.items():
                    files.pop(path, None) if data is None else files.__setitem__(path, data)
        return PowerCutDisk(files)

    def read(self, path):
        return self.files.get(path)

    def size(self, path):
        return len(self.files[path]) if path in self.files else None

    def names(self, folder):
        return sorted({p.relative_to(folder).parts[0] for p in self.files if folder in p.parents})

    def make_folder(self, folder):
        self._count()

    def write(self, path, data):
        self._change(path.parent, {path: data})

    def link(self, source, target):
        self._change(target.parent, {target: self.files[source]})

    def rename(self, source, target):
        moved = {p: d for p, d in self.files.items() if p == source or source in p.parents}
        gone: dict[Path, bytes | None] = dict.fromkeys(moved)
        self._change(target.parent, gone | {target / p.relative_to(source): d for p, d in moved.items()})

    def remove(self, path):
        gone = {p: None for p in self.files if p == path or path in p.parents}
        if gone:
            self._change(path.parent, gone)

    def sync(self, folder):
        self._count()
        done = [one for one in self.unsynced if one[0] == folder]
        for _, _, changes in done:
            for path, data in changes.items():
                self.durable.pop(path, None) if data is None else self.durable.__setitem__(path, data)
        self.unsynced = [one for one in self.unsynced if one[0] != folder]
