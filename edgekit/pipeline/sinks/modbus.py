"""Coils and holding registers of a Modbus device (TCP, or RTU on a serial line), written when they change."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec

from edgekit.core.errors import LinkError, SourceError
from edgekit.pipeline.sinks import SinkContext
from edgekit.pipeline.sinks.points import Point, PointOptions, PointSink
from edgekit.pipeline.sources.modbus import TYPES, NumberType, address_problem, connected, pymodbus

Address = Annotated[int, msgspec.Meta(ge=0, le=65_535)]


class ModbusPoint(Point, frozen=True, kw_only=True):
    """One ``coil`` or holding ``register``, by its address from 0.

    A register holds the value times ``scale``, as ``type``; one that is too large for it is its largest.
    """

    coil: Address | None = None
    register: Address | None = None
    type: NumberType = "uint16"
    scale: float = 1.0

    def problems(self) -> Iterator[str]:
        """Report a point that is neither, or both."""
        yield from super().problems()
        if (self.coil is None) == (self.register is None):
            yield "coil: want the address of either a coil or a register"


class ModbusSinkOptions(PointOptions, frozen=True, kw_only=True):
    """``[[sink]]`` of a Modbus device; ``uri``, ``unit``, ``baud``, ``little_words``: as for the source."""

    uri: str
    unit: Annotated[int, msgspec.Meta(ge=0, le=255)] = 1
    baud: Annotated[int, msgspec.Meta(ge=50, le=20_000_000)] = 9600
    little_words: bool = False
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=60)] = 2.0
    points: tuple[ModbusPoint, ...] = ()

    def problems(self) -> Iterator[str]:
        """Report an address that cannot be right, beside what is wrong with the points."""
        if problem := address_problem(self.uri):
            yield problem
        yield from super().problems()


class ModbusSink(PointSink):
    """Writes what the points show; a device that does not answer is tried again."""

    Options = ModbusSinkOptions
    kind = "modbus"

    def __init__(self, options: ModbusSinkOptions, context: SinkContext) -> None:
        super().__init__(options, context, ModbusLink(options), options.uri.removeprefix("tcp://"))


class ModbusLink:
    """A connection to one device.

    Raises:
        ConfigError: pymodbus is not installed.
    """

    def __init__(self, options: ModbusSinkOptions) -> None:
        self._options, self._error = options, pymodbus().error
        self._client: Any = None

    def open(self) -> None:
        """Connect."""
        options = self._options
        try:
            self._client = connected(options.uri, options.baud, options.timeout_s)
        except SourceError as cause:
            raise LinkError(cause.message, hint=cause.hint) from cause

    def write(self, number: int, value: float) -> None:
        """Write one coil or register, and wait for the device's answer."""
        options, point = self._options, self._options.points[number]
        try:
            if point.coil is not None:
                answer = self._client.write_coil(point.coil, bool(value), device_id=options.unit)
            else:
                words = words_of(value * point.scale, point.type, little_words=options.little_words)
                answer = self._client.write_registers(point.register, words, device_id=options.unit)
        except (self._error, OSError) as cause:
            raise LinkError(f"modbus {options.uri!r}: {cause}") from cause
        if answer.isError():
            raise LinkError(
                f"modbus {options.uri!r}: points[{number}]: the device refuses it: {answer}",
                hint="has it such a coil or register, and may it be written?",
            )

    def close(self) -> None:
        """End the connection."""
        client, self._client = self._client, None
        if client is not None:
            client.close()


def words_of(value: float, kind: NumberType, *, little_words: bool = False) -> list[int]:
    """Return a number as registers, cut to what its type holds.

    >>> words_of(70_000, "uint16"), words_of(1.5, "float32"), words_of(-2, "int32", little_words=True)
    ([65535], [16320, 0], [65534, 65535])
    """
    code = TYPES[kind]
    if code in "df":
        data = struct.pack(f">{code}", value)
    else:
        bits = struct.calcsize(f">{code}") * 8
        low, high = (0, (1 << bits) - 1) if code.isupper() else (-(1 << bits - 1), (1 << bits - 1) - 1)
        data = struct.pack(f">{code}", min(high, max(low, round(value) if math.isfinite(value) else 0)))
    words = list(struct.unpack(f">{len(data) // 2}H", data))
    return words[::-1] if little_words else words
