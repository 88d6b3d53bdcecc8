"""Registers of a chip on an I2C bus, read at a fixed rate, by smbus2."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

import msgspec

from edgekit.base.install_hint import install_hint
from edgekit.core.errors import ConfigError, SourceError
from edgekit.pipeline.check import Options
from edgekit.pipeline.sources import SourceContext
from edgekit.pipeline.sources.sampled import Device, SampledSource

_TYPES = {"uint8": "B", "int8": "b", "uint16": "H", "int16": "h", "uint32": "I", "int32": "i", "float32": "f"}
_LONGEST = 32
"""Bytes in one block. Source: System Management Bus 2.0, 5.5.7."""
Byte = Annotated[int, msgspec.Meta(ge=0, le=255)]


class I2cRegister(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One value: from ``register`` on, of ``type``; its number times ``scale`` plus ``offset``."""

    register: Byte
    type: Literal["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32"] = "int16"
    scale: float = 1.0
    offset: float = 0.0

    @property
    def size(self) -> int:
        """Its bytes."""
        return struct.calcsize(f">{_TYPES[self.type]}")


class I2cOptions(Options, frozen=True, kw_only=True):
    """``[source]`` of a chip on an I2C bus.

    ``uri``: the bus, ``/dev/i2c-1``. ``address``: the chip's, 7 bits. ``registers``: the model's values, in
    its order. ``setup``: pairs of register and byte, written whenever it is opened. ``big``: the byte at the
    lowest register is the highest. ``rate_hz``: how often they are read. ``give_up_s``: how long to retry; 0
    is forever.
    """

    uri: str
    address: Annotated[int, msgspec.Meta(ge=3, le=0x77)]
    registers: tuple[I2cRegister, ...] = ()
    setup: tuple[tuple[Byte, Byte], ...] = ()
    big: bool = False
    rate_hz: Annotated[float, msgspec.Meta(gt=0, le=2000)] = 10.0
    give_up_s: Annotated[float, msgspec.Meta(ge=0)] = 30.0

    def problems(self) -> Iterator[str]:
        """Report registers that are missing."""
        if not self.registers:
            yield "registers: want the register of each of the model's values, got none"


class I2cSource(SampledSource):
    """Samples of a chip's registers."""

    Options = I2cOptions

    def __init__(self, options: I2cOptions, context: SourceContext) -> None:
        self._options = options
        super().__init__(
            "i2c",
            f"{options.uri} 0x{options.address:02x}",
            ("registers", len(options.registers)),
            context,
            rate_hz=options.rate_hz,
            give_up_s=options.give_up_s,
        )

    def opened(self) -> Device:
        """Open the bus and set the chip up."""
        return Chip(self._options)


class Chip:
    """A chip on an opened bus.

    Raises:
        SourceError: The bus cannot be opened, or nothing answers.
    """

    def __init__(self, options: I2cOptions) -> None:
        self._options, library = options, smbus2()
        self._blocks = blocks_of(options.registers)
        try:
            self._bus = library.SMBus(options.uri)
        except OSError as cause:
            raise SourceError(
                f"i2c {options.uri!r}: cannot be opened: {cause.strerror}",
                hint="is the bus switched on (raspi-config, device tree), and the user in the group i2c?",
                fault="NOT_FOUND",
            ) from cause
        try:
            for register, value in options.setup:
                self._bus.write_byte_data(options.address, register, value)
            self.samples()
        except (OSError, SourceError) as cause:
            self._bus.close()
            raise SourceError(
                f"i2c {options.uri!r}: nothing answers at 0x{options.address:02x}: {cause}",
                hint="`i2cdetect -y 1` (Debian's i2c-tools) shows the addresses that answer",
                fault="CONNECTION_FAILED",
            ) from cause

    def samples(self) -> list[tuple[float, ...]]:
        """Return one sample."""
        options = self._options

        def read(start: int, size: int) -> bytes:
            return bytes(self._bus.read_i2c_block_data(options.address, start, size))

        try:
            return [values_of(options.registers, self._blocks, read, is_big=options.big)]
        except OSError as cause:
            raise SourceError(f"i2c {options.uri!r}: {cause}", fault="CONNECTION_FAILED") from cause

    def close(self) -> None:
        """Free the bus."""
        self._bus.close()


def blocks_of(registers: tuple[I2cRegister, ...]) -> list[tuple[int, int]]:
    """Return (first register, bytes) of the reads that bring all registers.

    Neighbours are read in one, of at most 32 bytes. It brings bytes of one moment, so a value is never split.

    >>> blocks_of((I2cRegister(register=0x3B), I2cRegister(register=0x3D), I2cRegister(register=0x75)))
    [(59, 4), (117, 2)]
    """
    blocks: list[tuple[int, int]] = []
    for register in sorted(registers, key=lambda register: register.register):
        end = register.register + register.size
        if blocks and register.register <= sum(blocks[-1]) and end - blocks[-1][0] <= _LONGEST:
            blocks[-1] = blocks[-1][0], max(sum(blocks[-1]), end) - blocks[-1][0]
        else:
            blocks.append((register.register, register.size))
    return blocks


def values_of(
    registers: tuple[I2cRegister, ...],
    blocks: list[tuple[int, int]],
    read: Callable[[int, int], bytes],
    *,
    is_big: bool,
) -> tuple[float, ...]:
    """Return the registers' values; ``read`` returns so many bytes from a register on.

    Raises:
        OSError: ``read`` raises it, or returns fewer bytes.
    """
    bytes_of: dict[int, int] = {}
    for start, size in blocks:
        data = read(start, size)
        if len(data) != size:
            raise OSError(f"{len(data)} of {size} bytes from register 0x{start:02x}")
        bytes_of.update(zip(range(start, start + size), data, strict=True))
    order = ">" if is_big else "<"
    values = []
    for register in registers:
        own = bytes(bytes_of[at] for at in range(register.register, register.register + register.size))
        (number,) = struct.unpack(order + _TYPES[register.type], own)
        values.append(float(number) * register.scale + register.offset)
    return tuple(values)


def smbus2() -> Any:
    """Return the module.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import smbus2 as library
    except ImportError as cause:
        raise ConfigError(f"source 'i2c' needs smbus2: {cause}", hint=install_hint("i2c")) from cause
    return library
