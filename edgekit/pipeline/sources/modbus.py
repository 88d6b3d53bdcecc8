"""Registers of a Modbus device (TCP, or RTU on a serial line), read at a fixed rate."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import urlsplit

import msgspec

from edgekit.base.install_hint import install_hint
from edgekit.core.addresses import shown
from edgekit.core.errors import ConfigError, SourceError
from edgekit.pipeline.check import Options
from edgekit.pipeline.sources import SourceContext
from edgekit.pipeline.sources.sampled import Device, SampledSource

NumberType = Literal["uint16", "int16", "uint32", "int32", "float32", "float64"]
TYPES = {"uint16": "H", "int16": "h", "uint32": "I", "int32": "i", "float32": "f", "float64": "d"}
_READS = {"holding": "read_holding_registers", "input": "read_input_registers"}


class Register(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One value: ``address`` from 0, ``table``, ``type``; its number times ``scale`` plus ``offset``."""

    address: Annotated[int, msgspec.Meta(ge=0, le=65_535)]
    table: Literal["holding", "input"] = "holding"
    type: NumberType = "uint16"
    scale: float = 1.0
    offset: float = 0.0


class ModbusOptions(Options, frozen=True, kw_only=True):
    """``[source]`` of a Modbus device.

    ``uri``: ``tcp://host:502``, or a serial line's device node. ``unit``: the device's number. ``registers``:
    the model's values, in its order. ``rate_hz``: how often they are read. ``little_words``: of a value in
    several registers the lowest comes first. ``give_up_s``: how long to retry; 0 is forever.
    """

    uri: str
    registers: tuple[Register, ...] = ()
    unit: Annotated[int, msgspec.Meta(ge=0, le=255)] = 1
    rate_hz: Annotated[float, msgspec.Meta(gt=0, le=1000)] = 1.0
    baud: Annotated[int, msgspec.Meta(ge=50, le=20_000_000)] = 9600
    little_words: bool = False
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=60)] = 2.0
    give_up_s: Annotated[float, msgspec.Meta(ge=0)] = 30.0

    def problems(self) -> Iterator[str]:
        """Report an address that cannot be right, and registers that are missing."""
        if problem := address_problem(self.uri):
            yield problem
        if not self.registers:
            yield "registers: want the address of each of the model's values, got none"


class _Block(NamedTuple):
    """Registers that are read by one question."""

    table: str
    address: int
    size: int


class ModbusSource(SampledSource):
    """Samples of a device's registers, as windows or rows; a question without an answer is a gap."""

    Options = ModbusOptions

    def __init__(self, options: ModbusOptions, context: SourceContext) -> None:
        self._options = options
        super().__init__(
            "modbus",
            options.uri,
            ("registers", len(options.registers)),
            context,
            rate_hz=options.rate_hz,
            give_up_s=options.give_up_s,
        )

    def opened(self) -> Device:
        """Connect."""
        return Connected(self._options)


class Connected:
    """A device that answers.

    Raises:
        SourceError: Nothing answers there.
    """

    def __init__(self, options: ModbusOptions) -> None:
        self._options = options
        self._blocks = blocks_of(options.registers)
        self._client = connected(options.uri, options.baud, options.timeout_s)
        try:
            self.samples()
        except SourceError:
            self._client.close()
            raise

    def samples(self) -> list[tuple[float, ...]]:
        """Return one sample."""
        words = {block: self._asked(block) for block in self._blocks}
        return [tuple(self._value(register, words) for register in self._options.registers)]

    def _asked(self, block: _Block) -> list[int]:
        name = f"modbus {self._options.uri!r}"
        try:
            answer = getattr(self._client, _READS[block.table])(
                block.address, count=block.size, device_id=self._options.unit
            )
        except (pymodbus().error, OSError) as cause:
            raise SourceError(f"{name}: {cause}", fault="CONNECTION_FAILED") from cause
        if answer.isError() or len(answer.registers) < block.size:
            raise SourceError(
                f"{name}: {block.table} registers from {block.address}: {answer}", fault="NOT_FOUND"
            )
        return list(answer.registers)

    def _value(self, register: Register, words: dict[_Block, list[int]]) -> float:
        code = TYPES[register.type]
        count = struct.calcsize(f">{code}") // 2
        block = next(block for block in self._blocks if _holds(block, register))
        own = words[block][register.address - block.address :][:count]
        if self._options.little_words:
            own.reverse()
        number = struct.unpack(f">{code}", struct.pack(f">{count}H", *own))[0]
        return float(number) * register.scale + register.offset

    def close(self) -> None:
        """Free the connection."""
        self._client.close()


def blocks_of(registers: tuple[Register, ...]) -> list[_Block]:
    """Return the questions that read all registers: neighbours together, at most 125 at once.

    Source: Modbus Application Protocol 1.1b3, 6.3.
    """
    blocks: list[_Block] = []
    for register in sorted(registers, key=lambda register: (register.table, register.address)):
        end = register.address + struct.calcsize(f">{TYPES[register.type]}") // 2
        last = blocks[-1] if blocks else None
        if (
            last is not None
            and last.table == register.table
            and register.address <= last.address + last.size
            and end - last.address <= 125
        ):
            blocks[-1] = last._replace(size=max(last.size, end - last.address))
        else:
            blocks.append(_Block(register.table, register.address, end - register.address))
    return blocks


def _holds(block: _Block, register: Register) -> bool:
    end = register.address + struct.calcsize(f">{TYPES[register.type]}") // 2
    return (
        block.table == register.table
        and block.address <= register.address
        and (end <= block.address + block.size)
    )


def address_problem(uri: str) -> str:
    """Return what is wrong with a device's address; empty if nothing is."""
    if "://" in uri and not (uri.startswith("tcp://") and urlsplit(uri).hostname):
        return f"uri: want tcp://host:port or a device node, got {shown(uri)!r}"
    return ""


def connected(uri: str, baud: int, timeout_s: float) -> Any:
    """Return a connected client of a device.

    Raises:
        ConfigError: pymodbus is not installed.
        SourceError: Nothing answers there.
    """
    library = pymodbus().client
    if uri.startswith("tcp://"):
        parts = urlsplit(uri)
        client = library.ModbusTcpClient(parts.hostname, port=parts.port or 502, timeout=timeout_s, retries=0)
    else:
        client = library.ModbusSerialClient(uri, baudrate=baud, timeout=timeout_s, retries=0)
    if not client.connect():
        client.close()
        raise SourceError(
            f"modbus {shown(uri)!r}: nothing answers there",
            hint="is the device on, its address right, and no other program connected to it?",
            fault="CONNECTION_FAILED",
        )
    return client


class _Library(NamedTuple):
    """pymodbus: its module of clients, and the class of its errors."""

    client: Any
    error: Any


def pymodbus() -> _Library:
    """Return what is used of pymodbus.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        from pymodbus import client
        from pymodbus.exceptions import ModbusException
    except ImportError as cause:
        raise ConfigError(f"'modbus' needs pymodbus: {cause}", hint=install_hint("modbus")) from cause
    return _Library(client, ModbusException)
