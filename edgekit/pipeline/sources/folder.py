"""New pictures in a folder, each once, also over restarts."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import msgspec

from edgekit.core.errors import SourceError, TensorError
from edgekit.core.ports import IDENTITY, IS_AGAIN, Frame
from edgekit.pipeline.check import Options
from edgekit.pipeline.done_list import DoneList
from edgekit.pipeline.picture_files import (
    MOST_FILES,
    decode_picture,
    left_out,
    natural,
    picture_bytes,
    readable,
    walk_pictures,
)
from edgekit.pipeline.pre import vision
from edgekit.pipeline.sources import SourceContext
from edgekit.pipeline.sources.timing import Reopener, stamp

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)
REMEMBERED = 50_000
"""Pictures that are known to be done, at least; of a larger folder twice as many as are in it."""
FIRST_TRIES, MOST_TRIES = 2, 10
"""How often a picture that was in work when the process was killed comes first; then it comes last, since it
may be what ends the process, and at last it is left out."""
WHOLE_LOOK_S = 10.0
"""How often the folder is listed although it has not changed: a file may be written anew in its place."""


class FolderOptions(Options, frozen=True, kw_only=True):
    """``[source]`` of a folder into which pictures are put.

    ``poll_s``: how often it is looked into. ``settle_s``: a file that has not changed for so long is whole.
    ``existing``: also take what is there at the very first start. ``give_up_s``: how long to wait for a
    folder that vanished; 0 is forever.
    """

    uri: str
    poll_s: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 0.5
    settle_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 1.0
    existing: bool = True
    give_up_s: Annotated[float, msgspec.Meta(ge=0)] = 30.0


class _Found(NamedTuple):
    name: str
    size: int
    mtime_ns: int

    @property
    def key(self) -> int:
        """64 bits of name, size and time: a file that is written anew is another one."""
        text = f"{self.size} {self.mtime_ns} ".encode() + os.fsencode(self.name)
        return int.from_bytes(blake2b(text, digest_size=8).digest(), "big")


class FolderSource:
    """Pictures of a folder and its subfolders as they come, none twice.

    A picture is noted as begun before it is decoded and as done when the sinks keep its result. One that was
    only begun when the process was killed comes first at the next start, with ``IS_AGAIN``: a sink that can
    look writes its result only if it has none. One that cannot be decoded, or that was in work at too many
    ends of the process, is a gap in ``seq``, and is tried again when it changes.
    """

    Options = FolderOptions
    is_live = False
    due_s = None
    """Nothing may come for days."""

    def __init__(self, options: FolderOptions, context: SourceContext) -> None:
        self._options = options
        self.path = context.path(options.uri)
        self._name = f"folder {readable(self.path)!r}"
        self._closing = threading.Event()
        at = blake2b(os.fsencode(self.path.absolute()), digest_size=6).hexdigest()
        self._done = DoneList(context.state / f"folder-{at}.done", REMEMBERED)
        self._unsettled: dict[str, tuple[_Found, float]] = {}
        self._ready: deque[_Found] = deque()
        self._given: set[int] = set()
        self._folders: dict[str, int] = {}
        """The folders that were listed, with the times of their last change."""
        self._looked_s = 0.0
        self._unread: set[str] = set()
        """The folders in it that cannot be read, each named once."""
        self._failed: set[int] = set()
        """Those of ``_given`` that the disk did not give: taken if the folder vanishes and returns."""
        self.next_seq = self._unreadable = self._gone = 0
        self.reopener = Reopener(self._name, self._listed, options.give_up_s, self._closing)

    def counts(self) -> dict[str, int]:
        """Return what could not be read, what vanished before it was, and what could not be noted as done."""
        return {"unreadable": self._unreadable, "gone": self._gone, "not_noted": self._done.not_noted}

    def state(self) -> dict[str, Any]:
        """Return what ``status`` says of the folder."""
        return self.reopener.state()

    def open(self) -> None:
        """Look into the folder for the first time."""
        vision()
        found = self.reopener.first()
        if self._done.open() and not self._options.existing:
            self._done.add(*(file.key for file in found))
        self._sort_out(found)

    def read(self) -> Frame | None:
        """Wait for the next whole picture; None after ``close``."""
        while not self._closing.is_set():
            if self._ready:
                frame = self._frame(self._ready.popleft())
                if frame is not None:
                    return frame
            elif not self._closing.wait(self._options.poll_s):
                self._look()
        return None

    def _frame(self, file: _Found) -> Frame | None:
        path = self.path / file.name
        try:
            facts = path.stat()
            if (facts.st_size, facts.st_mtime_ns) != (file.size, file.mtime_ns):
                self._given.discard(file.key)  # written anew while it waited: that is another picture
                return None
            data = picture_bytes(path)
        except FileNotFoundError:  # moved away, or its disk is: where it returns it is taken
            self._given.discard(file.key)
            self._gone += self.path.is_dir()
            return None
        except OSError as cause:  # the disk may be pulled out, so it is not done
            self._failed.add(file.key)
            self._leave_out(f"{readable(path)}: cannot be read: {cause.strerror}")
            return None
        tries = self._done.begun(file.key)
        try:
            pixels = self._decoded(file, data, tries)
        except TensorError as error:
            self._settle(file.key)
            self._leave_out(error.message)
            return None
        self.next_seq += 1
        captured_ns, unix_ms = stamp()
        meta: dict[str, Any] = {"file": readable(file.name), IDENTITY: f"{file.key:016x}"}
        if tries:
            meta[IS_AGAIN] = True
        return Frame(pixels, self.next_seq - 1, captured_ns, unix_ms, meta)

    def _decoded(self, file: _Found, data: bytes, tries: int) -> NDArray[np.uint8]:
        """Return a picture's pixels; raises ``TensorError``."""
        path = readable(self.path / file.name)
        if tries >= MOST_TRIES:
            raise TensorError(f"{path}: the process ended {tries} times while this picture was in work")
        self._done.begin(file.key)
        return decode_picture(data, path)

    def _leave_out(self, why: str) -> None:
        self.next_seq += 1
        self._unreadable += 1
        logger.warning("a picture is left out: %s", why)

    def finished(self, identity: str) -> None:
        """Note a picture as done, once the sinks keep its result; on any thread."""
        self._settle(int(identity, 16))

    def _settle(self, key: int) -> None:
        self._done.add(key)
        self._given.discard(key)

    def _look(self) -> None:
        try:
            if self._unsettled or self._has_changed() or time.monotonic() - self._looked_s > WHOLE_LOOK_S:
                self._sort_out(self._listed())
        except SourceError as lost:
            self._unsettled.clear()
            self._given -= {file.key for file in self._ready} | self._failed
            self._ready.clear()
            self._failed.clear()
            found = self.reopener.again(lost.message)
            if found is not None:
                self._sort_out(found)

    def _has_changed(self) -> bool:
        try:
            return any(
                Path(folder).stat().st_mtime_ns != mtime_ns for folder, mtime_ns in self._folders.items()
            )
        except OSError:
            return True

    def _listed(self) -> list[_Found]:
        """Return the pictures of the folder.

        Raises:
            SourceError: It is not there, cannot be read, or has too many.
        """
        self._looked_s, self._folders = time.monotonic(), {}
        try:
            found = list(self._found())
        except OSError as cause:
            raise SourceError(
                f"{self._name}: cannot be read: {cause.strerror}", hint="does it exist, is it mounted?"
            ) from cause
        if len(found) > MOST_FILES:
            raise SourceError(f"{self._name}: more than {MOST_FILES} pictures", hint="move away what is done")
        return found

    def _found(self) -> Iterator[_Found]:
        for name, entry in walk_pictures(self.path, self._unread_folder, self._note_folder):
            try:
                if entry.is_file():
                    facts = entry.stat()
                    yield _Found(name, facts.st_size, facts.st_mtime_ns)
            except OSError:  # noqa: PERF203 - moved away meanwhile, or a link to itself
                continue

    def _note_folder(self, path: str) -> None:
        self._folders[path] = Path(path).stat().st_mtime_ns

    def _unread_folder(self, path: str, cause: OSError) -> None:
        if path not in self._unread:
            left_out(path, cause)
        self._unread.add(path)

    def _sort_out(self, found: list[_Found]) -> None:
        """Make ready what is new and has not changed for ``settle_s``; empty files wait.

        First what was in work when an earlier run ended, as sinks look at the end of what they have; then the
        oldest.
        """
        now_s, before, self._unsettled = time.monotonic(), self._unsettled, {}
        new = [file for file in found if file.key not in self._given and not self._done.has(file.key)]
        for file in sorted(new, key=self._order):
            known, since_s = before.get(file.name, (None, now_s))
            if known != file:
                since_s = now_s
            if file.size and now_s - since_s >= self._options.settle_s:
                self._ready.append(file)
                self._given.add(file.key)
            else:
                self._unsettled[file.name] = (file, since_s)
        if found:  # an empty folder may be one whose disk is not mounted: then nothing is forgotten
            self._done.trim(len(found))

    def _order(self, file: _Found) -> tuple[Any, ...]:
        begun = self._done.begun(file.key)
        turn = 1 if not begun else 0 if begun <= FIRST_TRIES else 2
        return turn, file.mtime_ns, natural(file.name)

    def close(self) -> None:
        """End a wait, and the run in order."""
        self._closing.set()
        self._done.put_back()
