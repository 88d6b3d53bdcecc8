"""When the result of a frame is kept, and how it is recognised when the frame is taken again."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b

from edgekit.core.ports import IDENTITY, Frame
from edgekit.pipeline.events import Event


class Receipt:
    """Calls ``on_kept`` once nobody holds it any more; its maker is the first who does.

    >>> receipt = Receipt(lambda: print("kept"))
    >>> release = receipt.hold()
    >>> receipt.release()
    >>> release()
    kept
    """

    def __init__(self, on_kept: Callable[[], object]) -> None:
        self._on_kept, self._lock, self._holders = on_kept, threading.Lock(), 1

    def hold(self) -> Callable[[], object]:
        """Wait for one more; return what it calls, once, from any thread."""
        with self._lock:
            self._holders += 1
        return self.release

    def release(self) -> None:
        """Hold it no longer."""
        with self._lock:
            self._holders -= 1
            is_kept = not self._holders
        if is_kept:
            self._on_kept()


def result_key(pipeline: str, frame: Frame) -> str:
    """Return what a frame's result has again when the frame is taken again; empty if it never is."""
    identity = frame.meta.get(IDENTITY)
    return _hashed(pipeline, identity) if identity else ""


def event_keys(pipeline: str, frame: Frame, events: Iterable[Event]) -> Iterator[str]:
    """Yield the same of each of its events: empty texts if the frame is never taken again.

    The label is part of what is hashed and the frame's identity leaves the device nowhere, so that a key
    shows no label.
    """
    identity, seen = frame.meta.get(IDENTITY), Counter[tuple[str, ...]]()
    for event in events:
        what = (event.kind, event.stage, event.label, event.zone, event.line)
        yield _hashed(pipeline, identity, *what, str(seen[what])) if identity else ""
        seen[what] += 1


def _hashed(*parts: str) -> str:
    return blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()
