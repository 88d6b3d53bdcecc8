"""Samples of a sensor on a serial line, as windows."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec

from edgekit.base.install_hint import install_hint
from edgekit.core.errors import ConfigError, SourceError
from edgekit.core.ports import Frame
from edgekit.pipeline.fields import FieldOptions
from edgekit.pipeline.framing import BinaryFraming, TextFraming
from edgekit.pipeline.sources import SourceContext
from edgekit.pipeline.sources.samples import Samples
from edgekit.pipeline.sources.timing import Reopener, stamp

logger = logging.getLogger(__name__)

MAX_WINDOWS = 64
READ_S = 0.1


class SerialOptions(FieldOptions, frozen=True, kw_only=True):
    """``[source]`` of a serial line; window, hop and channels are the model's.

    ``uri``: a device node, or a URL of pyserial. ``framing``: lines of text, or binary frames.
    ``numbered``: text lines begin with a count, before the fields of ``FieldOptions``. ``dtype`` and
    ``scale``: of binary values.
    ``give_up_s``: how long to retry an unplugged line; 0 is forever.
    """

    uri: str
    baud: Annotated[int, msgspec.Meta(ge=50, le=20_000_000)] = 115_200
    framing: Literal["text", "binary"] = "text"
    numbered: bool = False
    dtype: Literal["float32", "int16"] = "float32"
    scale: float = 1.0
    give_up_s: Annotated[float, msgspec.Meta(ge=0)] = 30.0


class SerialSource:
    """Windows of samples, or rows of a model of tables; a gap in the stream is a gap in ``seq``.

    ``open_port`` returns an object like ``serial.Serial``; for tests.

    Raises:
        ConfigError: The model takes neither.
    """

    Options = SerialOptions
    is_live = True
    slots = 8
    """Windows that may wait: one read of the line's buffer may complete several."""
    due_s = None
    """A sensor may be silent for long."""

    def __init__(
        self,
        options: SerialOptions,
        context: SourceContext,
        open_port: Callable[[SerialOptions], Any] | None = None,
    ) -> None:
        self._options = options
        self._samples = Samples(context, "serial")
        self._open_port = open_port or open_serial
        self._has_warned = False
        self._framing = self._new_framing()
        self._closing = threading.Event()
        self._port: Any = None
        self._ready: deque[tuple[int, Any, int, int]] = deque()
        self._rejected_before = 0
        self.reopener = Reopener(f"serial {options.uri!r}", self._opened, options.give_up_s, self._closing)

    @property
    def rejected(self) -> int:
        """Lines and frames that were not valid."""
        return self._rejected_before + self._framing.rejected

    @property
    def missing(self) -> int:
        """Samples known to be lost."""
        return self._samples.missing

    def _new_framing(self) -> TextFraming | BinaryFraming:
        options = self._options
        if options.framing == "binary":
            return BinaryFraming(self._samples.values, options.dtype, options.scale)
        return TextFraming(
            self._samples.values, is_numbered=options.numbered, options=options, on_reject=self._warn_once
        )

    def _warn_once(self, line: str, why: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "serial %r: a line does not fit: %s: %r (later ones are only counted)",
                *(self._options.uri, why, line),
            )

    def counts(self) -> dict[str, int]:
        """Return the lines and frames that were not valid, and the samples that were lost."""
        return {"rejected": self.rejected, "missing": self.missing}

    def open(self) -> None:
        """Open the line."""
        self._port = self.reopener.first()

    def state(self) -> dict[str, Any]:
        """Return what ``status`` says of the line."""
        return self.reopener.state()

    def _opened(self) -> Any:
        return self._open_port(self._options)

    def read(self) -> Frame | None:
        """Wait for the next whole window; None after ``close``."""
        while not self._ready:
            if self._closing.is_set() or self._port is None:
                self._close_port()
                return None
            self._receive()
        seq, data, captured_ns, unix_ms = self._ready.popleft()
        return Frame(data, seq, captured_ns, unix_ms, {"capture_ms": 0.0})

    def _receive(self) -> None:
        try:
            data = self._port.read(max(1, min(self._port.in_waiting, 4096)))
        except (OSError, TypeError) as cause:  # pyserial: TypeError when it is closed while it reads
            if not self._closing.is_set():
                self._again(str(cause))
            return
        captured_ns, unix_ms = stamp()
        for seq, sample in self._samples.push(self._framing.feed(data)):
            self._ready.append((seq, sample, captured_ns, unix_ms))
        while len(self._ready) > MAX_WINDOWS:  # the missing numbers count as dropped
            self._ready.popleft()

    def _again(self, why: str) -> None:
        self._close_port()
        self._rejected_before += self._framing.rejected
        self._framing = self._new_framing()
        self._samples.push([1])  # at least one sample is lost, and no window spans the cut
        self._port = self.reopener.again(why)

    def _close_port(self) -> None:
        if self._port is not None:
            self._port.close()
        self._port = None

    def close(self) -> None:
        """End a wait; the reader frees the line."""
        self._closing.set()
        if (cancel := getattr(self._port, "cancel_read", None)) is not None:
            cancel()


def open_serial(options: SerialOptions) -> Any:
    """Open a line through pyserial.

    Raises:
        ConfigError: pyserial is not installed.
        SourceError: There is no such line, or it cannot be opened.
    """
    try:
        import serial
    except ImportError as cause:
        raise ConfigError("source 'serial' needs pyserial", hint=install_hint("serial")) from cause
    try:
        return serial.serial_for_url(options.uri, baudrate=options.baud, timeout=READ_S)
    except (OSError, ValueError) as cause:
        raise SourceError(
            f"serial {options.uri!r}: cannot be opened: {cause}",
            hint="is it plugged in, free, and may this user open it (group 'dialout')?",
        ) from cause
