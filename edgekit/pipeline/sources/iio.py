"""A sensor of Linux' Industrial I/O: its channels read from sysfs, or its buffer from the device node.

Source: Documentation/ABI/testing/sysfs-bus-iio and Documentation/driver-api/iio/buffers of the kernel.
"""

from __future__ import annotations

import os
import re
import select
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec

from edgekit.core.errors import SourceError
from edgekit.pipeline.check import Options
from edgekit.pipeline.sources import SourceContext
from edgekit.pipeline.sources.sampled import Device, SampledSource

_DEVICES = Path("sys/bus/iio/devices")
_TYPE = re.compile(r"(be|le):([su])(\d+)/(\d+)(?:X\d+)?>>(\d+)")
_WAIT_MS = 200
_LONGEST = 4096


class IioOptions(Options, frozen=True, kw_only=True):
    """``[source]`` of an IIO device.

    ``uri``: its name (``lsm6dso_accel``), or its folder (``iio:device0``). ``channels``: the model's values,
    in its order, without ``in_`` (``accel_x``, ``voltage0``). ``rate_hz``: how often they are read, or with
    ``buffered`` what the device is set to; 0 then leaves its own. ``trigger``: the buffer's, by name.
    ``root``: the folder that has ``sys`` and ``dev``. ``give_up_s``: how long to retry; 0 is forever.
    """

    uri: str
    channels: tuple[Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9_-]{1,64}$")], ...] = ()
    rate_hz: Annotated[float, msgspec.Meta(ge=0, le=100_000)] = 10.0
    buffered: bool = False
    trigger: str = ""
    root: str = "/"
    give_up_s: Annotated[float, msgspec.Meta(ge=0)] = 30.0

    def problems(self) -> Iterator[str]:
        """Report channels or a rate that are missing."""
        if not self.channels:
            yield "channels: want the channel of each of the model's values, got none"
        if not self.buffered and not self.rate_hz:
            yield "rate_hz: want how often the channels are read, got 0"
        if self.trigger and not self.buffered:
            yield "trigger: want buffered = true with it"


class Scaling(NamedTuple):
    """A channel's value is (raw + offset) * scale, in the kernel's unit of its kind."""

    offset: float = 0.0
    scale: float = 1.0


class Layout(NamedTuple):
    """Where a channel lies in a buffer's scan, and how its bits are read."""

    start: int
    size: int
    is_big: bool
    is_signed: bool
    bits: int
    shift: int

    def value(self, scan: bytes) -> int:
        """Return the raw value in one scan."""
        word = int.from_bytes(scan[self.start : self.start + self.size], "big" if self.is_big else "little")
        raw = (word >> self.shift) & ((1 << self.bits) - 1)
        return raw - (1 << self.bits) if self.is_signed and raw >> (self.bits - 1) else raw


class IioSource(SampledSource):
    """Samples of an IIO device, in the kernel's units (m/s², rad/s, millivolt, milli °C ...)."""

    Options = IioOptions

    def __init__(self, options: IioOptions, context: SourceContext) -> None:
        self._options = options
        super().__init__(
            "iio",
            options.uri,
            ("channels", len(options.channels)),
            context,
            rate_hz=0.0 if options.buffered else options.rate_hz,
            give_up_s=options.give_up_s,
        )

    def opened(self) -> Device:
        """Find the device, and start its buffer."""
        root = Path(self._options.root)
        folder = find_device(root, self._options.uri)
        return (
            Buffered(root, folder, self._options) if self._options.buffered else Polled(folder, self._options)
        )


def find_device(root: Path, uri: str) -> Path:
    """Return the sysfs folder of a device by its name or its folder's name.

    Raises:
        SourceError: There is none, or the name is that of several; the message lists what there is.
    """
    folders = sorted((root / _DEVICES).glob("iio:device*"))
    named = {folder: _text(folder / "name") for folder in folders}
    fitting = [folder for folder in folders if uri in (folder.name, named[folder])]
    if len(fitting) == 1:
        return fitting[0]
    known = ", ".join(f"{folder.name} ({name})" for folder, name in named.items()) or "none"
    reason = "several have that name" if fitting else "there is no such device"
    raise SourceError(
        f"iio {uri!r}: {reason}", hint=f"IIO devices here: {known}; uri takes either", fault="NOT_FOUND"
    )


def scaling_of(folder: Path, channel: str) -> Scaling:
    """Return a channel's scaling: its own, or that of all channels of its kind."""
    kind = re.sub(r"(?<=[a-z])\d+", "", channel).partition("_")[0]

    def number(what: str, default: float) -> float:
        for name in (f"in_{channel}_{what}", f"in_{kind}_{what}"):
            if text := _text(folder / name):
                return float(text)
        return default

    return Scaling(number("offset", 0.0), number("scale", 1.0))


def layouts_of(types: dict[str, tuple[int, str]]) -> tuple[dict[str, Layout], int]:
    """Return where each enabled channel lies in a scan, and the scan's size in bytes.

    Each channel is aligned to its own size, the whole to the largest.

    >>> layouts_of({"x": (0, "le:s12/16>>4"), "timestamp": (1, "le:s64/64>>0")})[1]
    16

    Args:
        types: By channel, its index and the text of its ``_type`` file.

    Raises:
        SourceError: A type is not as the kernel writes them.
    """
    layouts, end, widest = {}, 0, 1
    for name, (_, text) in sorted(types.items(), key=lambda item: item[1][0]):
        match = _TYPE.fullmatch(text)
        if match is None:
            raise SourceError(f"iio: the type of channel {name} is {text!r}, which is not known here")
        size = int(match[4]) // 8
        start = -(-end // size) * size
        layouts[name] = Layout(start, size, match[1] == "be", match[2] == "s", int(match[3]), int(match[5]))
        end, widest = start + size, max(widest, size)
    return layouts, -(-end // widest) * widest


class Polled:
    """Reads each channel's ``_raw`` or ``_input`` file."""

    def __init__(self, folder: Path, options: IioOptions) -> None:
        self._readings = [_reading(folder, channel) for channel in options.channels]

    def samples(self) -> list[tuple[float, ...]]:
        """Return one sample."""
        try:
            numbers = [float(path.read_text("ascii")) for path, _ in self._readings]
        except (OSError, ValueError) as cause:
            raise SourceError(f"iio: a channel cannot be read: {cause}", fault="NOT_FOUND") from cause
        return [tuple((n + s.offset) * s.scale for n, (_, s) in zip(numbers, self._readings, strict=True))]

    def close(self) -> None:
        """Nothing is kept open."""


def _reading(folder: Path, channel: str) -> tuple[Path, Scaling]:
    if (folder / f"in_{channel}_input").exists():  # scaled by the driver
        return folder / f"in_{channel}_input", Scaling()
    path = folder / f"in_{channel}_raw"
    if not path.exists():
        names = sorted(p.name[3:-4] for p in folder.glob("in_*_raw"))
        raise SourceError(
            f"iio {folder.name}: there is no channel {channel!r}",
            hint=f"it has: {', '.join(names) or 'none'}",
            fault="NOT_FOUND",
        )
    return path, scaling_of(folder, channel)


class Buffered:
    """Enables the channels' part of the buffer and reads scans from the device node."""

    def __init__(self, root: Path, folder: Path, options: IioOptions) -> None:
        self._folder, scans = folder, folder / "scan_elements"
        try:
            _write(folder / "buffer" / "enable", "0")
            if options.trigger:
                _write(folder / "trigger" / "current_trigger", options.trigger)
            if options.rate_hz:
                _set_rate(folder, options)
            wanted = {f"in_{channel}_en" for channel in options.channels}
            for path in sorted(scans.glob("*_en")):
                _write(path, str(int(path.name in wanted)))
            if missing := wanted - {path.name for path in scans.glob("*_en")}:
                raise SourceError(f"iio {folder.name}: its buffer has no {', '.join(sorted(missing))}")
            types = {
                channel: (
                    int(_text(scans / f"in_{channel}_index") or 0),
                    _text(scans / f"in_{channel}_type"),
                )
                for channel in options.channels
            }
            _write(folder / "buffer" / "length", str(_LONGEST))
            _write(folder / "buffer" / "enable", "1")
            self._node = os.open(root / "dev" / folder.name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as cause:
            raise SourceError(
                f"iio {folder.name}: its buffer cannot be started: {cause}",
                hint="is the user in the group of the device node, and does the device have a trigger?",
            ) from cause
        layouts, self._size = layouts_of(types)
        self._channels = [(layouts[name], scaling_of(folder, name)) for name in options.channels]
        self._rest = b""

    def samples(self) -> list[tuple[float, ...]]:
        """Return the samples that came; none after a short wait without any."""
        if not select.select([self._node], [], [], _WAIT_MS / 1000)[0]:
            return []
        try:
            new = os.read(self._node, self._size * 256)
        except OSError as cause:
            raise SourceError(f"iio: the buffer cannot be read: {cause}", fault="NOT_FOUND") from cause
        if not new:
            raise SourceError("iio: the buffer has ended", fault="NOT_FOUND")
        data = self._rest + new
        whole = len(data) // self._size * self._size
        self._rest = data[whole:]
        return [self._sample(data[at : at + self._size]) for at in range(0, whole, self._size)]

    def _sample(self, scan: bytes) -> tuple[float, ...]:
        return tuple((layout.value(scan) + s.offset) * s.scale for layout, s in self._channels)

    def close(self) -> None:
        """Stop the buffer."""
        os.close(self._node)
        try:
            _write(self._folder / "buffer" / "enable", "0")
        except OSError:  # it vanished
            return


def _set_rate(folder: Path, options: IioOptions) -> None:
    path = next(
        (p for p in (folder / "sampling_frequency", *folder.glob("in_*_sampling_frequency")) if p.exists()),
        None,
    )
    if path is None:
        raise SourceError(
            f"iio {folder.name}: it has no rate to set",
            hint="rate_hz = 0 leaves the device's or the trigger's",
        )
    _write(path, f"{options.rate_hz:g}")


def _write(path: Path, text: str) -> None:
    path.write_text(text, "ascii")


def _text(path: Path) -> str:
    try:
        return path.read_text("ascii", errors="replace").strip()
    except OSError:
        return ""
