"""What sources have in common that read a device's values at a rate: registers, channels."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from edgekit.core.errors import ConfigError, SourceError
from edgekit.core.ports import Frame
from edgekit.pipeline.sources import SourceContext
from edgekit.pipeline.sources.samples import Samples
from edgekit.pipeline.sources.timing import Pacer, Reopener, stamp


class Device(Protocol):
    """An opened device."""

    def samples(self) -> Sequence[tuple[float, ...]]:
        """Return the samples that came, one value for each of the model's.

        Raises:
            SourceError: It is lost.
        """

    def close(self) -> None:
        """Free it."""


class SampledSource:
    """Samples of a device as windows or rows; a sample that failed or is no number is a gap.

    A source derives from it and has ``Options`` and ``opened``. ``due_s`` is None, since a question without
    an answer ends by itself, and a window may take hours.

    Args:
        kind: The source's name.
        uri: The device, for messages.
        values: The key that states the model's values, and how many it states.
        context: The model's window or columns.
        rate_hz: How often the device is asked; 0: it says itself when there is something.
        give_up_s: How long a lost device is tried again; 0 is forever.

    Raises:
        ConfigError: The model takes another number of values than are stated.
    """

    is_live = True
    slots = 8
    due_s = None

    def __init__(
        self,
        kind: str,
        uri: str,
        values: tuple[str, int],
        context: SourceContext,
        *,
        rate_hz: float,
        give_up_s: float,
    ) -> None:
        self._samples = Samples(context, kind)
        key, stated = values
        if stated != self._samples.values:
            raise ConfigError(
                f"source {kind!r}: {key}: want {self._samples.values}, one for each of the model's values,"
                f" got {stated}"
            )
        self._closing = threading.Event()
        self._pacer = Pacer(rate_hz, self._closing) if rate_hz else None
        self._device: Device | None = None
        self._ready: deque[tuple[int, Any, tuple[int, int]]] = deque()
        self.reopener = Reopener(f"{kind} {uri!r}", self.opened, give_up_s, self._closing)

    def opened(self) -> Device:
        """Return the device, opened.

        Raises:
            SourceError: It cannot be opened.
        """
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """Return what ``status`` says of the device."""
        return self.reopener.state()

    def counts(self) -> dict[str, int]:
        """Return how many samples are missing."""
        return {"missing": self._samples.missing}

    def open(self) -> None:
        """Open the device."""
        self._device = self.reopener.first()

    def read(self) -> Frame | None:
        """Wait for the next frame; None after ``close``."""
        while not self._ready and not self._closing.is_set() and self._device is not None:
            if self._pacer is not None:
                self._pacer.wait()
            if not self._closing.is_set():
                self._take(self._device)
        if self._closing.is_set() or not self._ready:
            if self._device is not None:
                self._device.close()
            return None
        seq, data, times = self._ready.popleft()
        return Frame(data, seq, *times, {})

    def _take(self, device: Device) -> None:
        times = stamp()
        try:
            samples = device.samples()
        except SourceError as lost:
            device.close()
            self._samples.push([1])
            self._device = self.reopener.again(lost.message, lost.fault)
            return
        entries = [sample if all(map(math.isfinite, sample)) else 1 for sample in samples]
        self._ready.extend((seq, data, times) for seq, data in self._samples.push(entries))

    def close(self) -> None:
        """End a wait; the reader frees the device."""
        self._closing.set()
