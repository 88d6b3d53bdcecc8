"""Raw frames that a child process writes to its output: ffmpeg, GStreamer, a camera maker's own program."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from edgekit.base.child import exit_reason
from edgekit.core.addresses import masked, shown
from edgekit.core.errors import SourceError
from edgekit.core.ports import Frame
from edgekit.pipeline.check import Options
from edgekit.pipeline.sources import SourceContext
from edgekit.pipeline.sources.recipes import RECIPES, filled_in
from edgekit.pipeline.sources.rtsp_address import parse_address
from edgekit.pipeline.sources.timing import DUE_S, Reopener, stamp

Side = Annotated[int, msgspec.Meta(ge=8, le=16384)]
CHANNELS = {"bgr24": 3, "gray": 1}
_ADDRESS = re.compile(r"\w+://\S+")
_LOG_END_BYTES = 4096
_TERM_S = 1.0


class CommandOptions(Options, frozen=True, kw_only=True):
    """``[source]`` of a child process that writes frames of one size, one after the other, without headers.

    ``command``: its words; or ``recipe``, the name of a ready one, with ``uri``. ``{uri}``, ``{width}`` and
    ``{height}`` in a word are replaced. ``pixels``: ``bgr24`` or ``gray``, as ffmpeg calls them. ``stall_s``:
    without a whole frame for so long, the child is started again. ``give_up_s``: how long to retry a child
    that ends; 0 is forever.
    """

    width: Side
    height: Side
    command: tuple[str, ...] = ()
    recipe: str = ""
    uri: str = ""
    pixels: Literal["bgr24", "gray"] = "bgr24"
    stall_s: Annotated[float, msgspec.Meta(gt=0, le=600)] = 10.0
    give_up_s: Annotated[float, msgspec.Meta(ge=0)] = 30.0

    def problems(self) -> Iterator[str]:
        """Report a command that is missing, or there twice."""
        if bool(self.command) == bool(self.recipe):
            yield "command: want this or recipe"
        if self.recipe and self.recipe not in RECIPES:
            yield f"recipe: want one of {', '.join(RECIPES)}, got {self.recipe!r}"
        if self.recipe:
            try:
                parse_address(self.uri)
            except ValueError as problem:
                yield f"uri: {problem}"
        if self.recipe and self.pixels != "bgr24":
            yield 'pixels: want "bgr24" with recipe'


class CommandSource:
    """Frames of a child process, which is started again when it ends or stalls."""

    Options = CommandOptions
    is_live = True

    def __init__(self, options: CommandOptions, context: SourceContext) -> None:
        self._options, self._folder = options, context.folder
        self._closing = threading.Event()
        self._child: _Child | None = None
        self._first: bytearray | None = None
        self._seq = 0
        self._size = options.width * options.height * CHANNELS[options.pixels]
        words = RECIPES[options.recipe].words if options.recipe else options.command
        self._words = filled_in(words, options.uri, options.width, options.height)
        self._secret = tuple({word for word in (options.uri, *self._words) if "://" in word})
        self.name = f"command {' '.join(words[:1])!r}"
        self.reopener = Reopener(self.name, self._opened, options.give_up_s, self._closing)

    @property
    def due_s(self) -> float | None:
        """Seconds within which a frame is due; None while the child is started again."""
        return None if self.reopener.is_waiting else DUE_S + self._options.stall_s

    def state(self) -> dict[str, Any]:
        """Return what ``status`` says of the child."""
        return self.reopener.state()

    def open(self) -> None:
        """Start the child, and wait for its first frame."""
        self._child = self.reopener.first()

    def _opened(self) -> _Child:
        child = _Child(self._words, str(self._folder), self._size, self._secret)
        try:
            self._first = child.frame(self._options.stall_s, self._closing)
        except SourceError as error:
            child.close()
            raise SourceError(f"{self.name}: {error.message}", hint=error.hint, fault=error.fault) from None
        return child

    def read(self) -> Frame | None:
        """Wait for the next frame; None after ``close``."""
        while (child := self._child) is not None and not self._closing.is_set():
            data, self._first = self._first, None
            try:
                data = data or child.frame(self._options.stall_s, self._closing)
            except SourceError as lost:
                child.close()
                self._child = self.reopener.again(lost.message, lost.fault)
                continue
            if data is not None:
                return self._frame(data)
        if child is not None:
            child.close()
        return None

    def _frame(self, data: bytearray) -> Frame:
        import numpy as np

        captured_ns, unix_ms = stamp()
        shape = (self._options.height, self._options.width, CHANNELS[self._options.pixels])
        pixels = np.frombuffer(data, np.uint8).reshape(shape)
        if shape[2] == 1:
            pixels = np.repeat(pixels, 3, axis=2)
        self._seq += 1
        return Frame(pixels, self._seq - 1, captured_ns, unix_ms)

    def close(self) -> None:
        """End the child; a wait for it ends by itself."""
        self._closing.set()
        if (child := self._child) is not None:
            child.close()


class _Child:
    """A process with a group of its own, whose output is frames; the end of its stderr is kept.

    Where util-linux's ``setpriv`` is there, the kernel ends it with this process, however that ends.
    ``secret``: addresses whose credentials and queries are not shown when it says its last words.
    """

    def __init__(self, words: Sequence[str], folder: str, size: int, secret: Sequence[str]) -> None:
        if not shutil.which(words[0]):
            is_there = "/" in words[0] and Path(words[0]).exists()
            why = "is no program that this user may run" if is_there else "there is no such program"
            raise SourceError(why, hint="install it, or give its path")
        if setpriv := shutil.which("setpriv"):
            words = [setpriv, "--pdeathsig", "KILL", "--", *words]
        try:
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                cwd=folder,
                start_new_session=True,
            )
        except OSError as cause:
            raise SourceError(f"cannot be started: {cause.strerror}") from cause
        assert self._process.stdout is not None
        self._output, self._size, self._secret = self._process.stdout, size, secret
        self._poller = select.poll()
        self._poller.register(self._output, select.POLLIN)
        self._log_end = b""
        self._closed = os.eventfd(0, os.EFD_CLOEXEC)
        self._in_use = threading.Lock()
        self._log_reader = threading.Thread(target=self._read_log, name="command-log", daemon=True)
        self._log_reader.start()

    def _read_log(self) -> None:
        """Keep the end of its stderr until ``close``: a daemon that it started may hold that for ever."""
        assert self._process.stderr is not None
        poller = select.poll()
        poller.register(self._closed, select.POLLIN)
        with self._process.stderr as log:
            poller.register(log, select.POLLIN)
            while self._closed not in dict(poller.poll()) and (piece := log.read(_LOG_END_BYTES)):
                self._log_end = (self._log_end + piece)[-_LOG_END_BYTES:]

    def frame(self, stall_s: float, closing: threading.Event) -> bytearray | None:
        """Wait for a whole frame and return its bytes; None when closing.

        Raises:
            SourceError: The child ended (``CONNECTION_FAILED``), or made no frame in time (``STALLED``).
        """
        data = bytearray(self._size)
        rest = memoryview(data)
        deadline_s = time.monotonic() + stall_s
        with self._in_use:
            while rest:
                if closing.is_set():
                    return None
                if (left_s := deadline_s - time.monotonic()) <= 0:
                    text = f"no whole frame came for {stall_s:g} s"
                    raise SourceError(text + self._last_words(), fault="STALLED")
                if self._poller.poll(min(left_s, 0.5) * 1e3):
                    if not (count := os.readv(self._output.fileno(), [rest])):
                        raise self._ended(len(rest))
                    rest = rest[count:]
        return data

    def _ended(self, missing: int) -> SourceError:
        part = "" if missing == self._size else f", {missing} bytes short of a frame"
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_TERM_S)
        code = self._process.poll()
        how = "closed its output" if code is None else f"ended ({exit_reason(code)})"
        self._log_reader.join(_TERM_S)
        return SourceError(f"the process {how}{part}{self._last_words()}", fault="CONNECTION_FAILED")

    def _last_words(self) -> str:
        """Return the last line of its stderr, all addresses without credentials and query."""
        text = masked(self._log_end.decode(errors="replace"), *self._secret)  # before a password is two lines
        last = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
        last = "".join(filter(str.isprintable, last))
        return ": " + _ADDRESS.sub(lambda found: shown(found[0]), last)[-300:] if last else ""

    def close(self) -> None:
        """End it and what it started, and reap it; safe to call twice, and while ``frame`` waits."""
        if self._process.poll() is None:
            self._signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_TERM_S)
        self._signal(signal.SIGKILL)  # its group may outlive it
        self._process.wait()
        with self._in_use:
            if not self._output.closed:
                self._output.close()
                os.eventfd_write(self._closed, 1)
                self._log_reader.join()
                os.close(self._closed)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)
