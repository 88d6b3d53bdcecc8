"""Registers of a chip on an I2C bus; no bus is here, so the chip's bytes stand in for it."""

import struct

import pytest

from edgekit.core.errors import ConfigError, SourceError
from edgekit.pipeline.sources import SourceContext, make_source
from edgekit.pipeline.sources.i2c import I2cOptions, I2cRegister, blocks_of, values_of

REGISTERS = (
    I2cRegister(register=0x3D, scale=0.5),
    I2cRegister(register=0x3B, offset=1),
    I2cRegister(register=0x75, type="uint8"),
    I2cRegister(register=0x40, type="float32"),
)
MEMORY = bytearray(256)
MEMORY[0x3B:0x3F] = struct.pack(">2h", -2, 300)
MEMORY[0x40:0x44] = struct.pack(">f", 21.5)
MEMORY[0x75] = 0x68


def test_neighbours_are_read_at_once_and_become_values_in_the_models_order():
    asked = []

    def read(start, size):
        asked.append((start, size))
        return bytes(MEMORY[start : start + size])

    values = values_of(REGISTERS, blocks_of(REGISTERS), read, is_big=True)
    assert values == (150.0, -1.0, 104.0, 21.5)
    assert asked == [(0x3B, 4), (0x40, 4), (0x75, 1)]


def test_no_read_is_longer_than_the_bus_allows():
    many = tuple(I2cRegister(register=2 * number) for number in range(20))
    assert blocks_of(many) == [(0, 32), (32, 8)]


def test_an_answer_that_is_too_short_is_an_error_and_no_value():
    with pytest.raises(OSError, match="1 of 4 bytes from register 0x3b"):
        values_of(REGISTERS, blocks_of(REGISTERS), lambda *_: b"x", is_big=True)


def test_a_bus_that_is_not_there_and_registers_that_do_not_fit_are_named():
    pytest.importorskip("smbus2", reason="the extra 'i2c' is not installed")
    options = I2cOptions(uri="/dev/i2c-99", address=0x68, registers=REGISTERS[:2])
    with pytest.raises(SourceError, match="i2c '/dev/i2c-99': cannot be opened: No such file") as caught:
        make_source("i2c", options, SourceContext(columns=("x", "y"))).open()
    assert caught.value.fault == "NOT_FOUND"
    with pytest.raises(ConfigError, match="registers: want 3"):
        make_source("i2c", options, SourceContext(columns=("x", "y", "z")))
