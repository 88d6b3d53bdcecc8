"""Lines of a GPIO chip, by libgpiod: a relay or a lamp that is on while something is there."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from edgekit.base.install_hint import install_hint
from edgekit.core.errors import ConfigError, LinkError
from edgekit.pipeline.sinks import SinkContext
from edgekit.pipeline.sinks.points import Point, PointOptions, PointSink


class GpioPoint(Point, frozen=True, kw_only=True):
    """One output: ``offset`` is the line's number in its chip, as ``gpioinfo`` lists it.

    It is active while its value is not 0. ``active_low``: active is the low level.
    """

    offset: Annotated[int, msgspec.Meta(ge=0, le=4095)]
    active_low: bool = False


class GpioOptions(PointOptions, frozen=True, kw_only=True):
    """``[[sink]]`` of a GPIO chip: its device node, and what each line shows."""

    chip: str = "/dev/gpiochip0"
    points: tuple[GpioPoint, ...] = ()


class GpioSink(PointSink):
    """Drives lines; they are inactive before the first frame and after the last."""

    Options = GpioOptions
    kind = "gpio"

    def __init__(self, options: GpioOptions, context: SinkContext) -> None:
        super().__init__(options, context, GpioLink(options), options.chip)


class GpioLink:
    """The requested lines of one chip.

    Raises:
        ConfigError: gpiod is not installed.
    """

    def __init__(self, options: GpioOptions) -> None:
        self._options, self._gpiod = options, gpiod()
        self._lines: Any = None

    def open(self) -> None:
        """Take the lines as outputs, inactive."""
        library = self._gpiod
        settings = {
            point.offset: library.LineSettings(
                direction=library.line.Direction.OUTPUT,
                output_value=library.line.Value.INACTIVE,
                active_low=point.active_low,
            )
            for point in self._options.points
        }
        chip = self._options.chip
        try:
            self._lines = library.request_lines(chip, config=settings, consumer="edgekit")
        except (OSError, ValueError) as cause:
            raise LinkError(
                f"gpio {chip}: lines {', '.join(map(str, settings))}: {cause}",
                hint="is it a GPIO chip, may this user open it, and does nobody else drive these lines?",
            ) from cause

    def write(self, number: int, value: float) -> None:
        """Set one line."""
        state = self._gpiod.line.Value
        try:
            self._lines.set_value(
                self._options.points[number].offset, state.ACTIVE if value else state.INACTIVE
            )
        except (OSError, ValueError) as cause:
            raise LinkError(f"gpio {self._options.chip}: {cause}") from cause

    def close(self) -> None:
        """Give the lines back: what level they have then is the chip's own business."""
        lines, self._lines = self._lines, None
        if lines is not None:
            lines.release()


def gpiod() -> Any:
    """Return libgpiod's own Python package, version 2.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import gpiod as library
        import gpiod.line
    except ImportError as cause:
        raise ConfigError(f"sink 'gpio' needs gpiod: {cause}", hint=install_hint("gpio")) from cause
    return library
