"""A Modbus device's registers become samples; it may go and come back."""

import struct
import threading
import time

import pytest

from edgekit.core.errors import ConfigError, SourceError
from edgekit.pipeline.sources import SourceContext, make_source
from edgekit.pipeline.sources.modbus import ModbusOptions, Register, blocks_of

pytest.importorskip("pymodbus", reason="the extra 'modbus' is not installed")

from brokers import free_port
from modbus_device import ModbusDevice

FLOAT = struct.unpack(">2H", struct.pack(">f", 21.5))
VALUES = [7, 0xFFFE, *FLOAT, *reversed(FLOAT), 0x7FC0, 0]
ROW = SourceContext(columns=("level", "trim", "heat"))
REGISTERS = (
    Register(address=0, scale=0.1),
    Register(address=1, type="int16", offset=1),
    Register(address=2, type="float32"),
)


@pytest.fixture(scope="module")
def device():
    made = ModbusDevice(VALUES)
    yield made
    made.close()


def opened(url, context=ROW, registers=REGISTERS, **options):
    options = {"rate_hz": 200.0, "timeout_s": 1.0, **options}
    source = make_source("modbus", ModbusOptions(uri=url, registers=registers, **options), context)
    source.open()
    return source


def end(source):
    source.close()
    assert source.read() is None


def test_registers_are_values_of_a_row(device):
    source = opened(device.url)
    frames = [source.read() for _ in range(3)]
    end(source)
    assert [frame.seq for frame in frames] == [0, 1, 2]
    assert frames[0].data == {"level": pytest.approx(0.7), "trim": -1.0, "heat": 21.5}


def test_registers_are_channels_of_a_window_and_the_words_order_can_be_stated(device):
    registers = (Register(address=4, type="float32"),)
    source = opened(device.url, SourceContext(window=3, hop=3, channels=1), registers, little_words=True)
    frame = source.read()
    end(source)
    assert frame.data.tolist() == [[21.5]] * 3


def test_a_value_that_is_no_number_is_a_gap(device):
    source = opened(device.url, SourceContext(columns=("x",)), (Register(address=6, type="float32"),))
    read = []
    thread = threading.Thread(target=lambda: read.append(source.read()))
    thread.start()
    while source.counts()["missing"] < 2:
        time.sleep(0.005)
    source.close()
    thread.join(10)
    assert read == [None]


def test_a_device_that_goes_is_connected_again_and_the_gap_is_counted():
    first = ModbusDevice(VALUES)
    source = opened(first.url)
    source.read()
    first.close()
    second = []

    def plug_in_again():
        while not source.reopener.is_waiting:
            time.sleep(0.005)
        second.append(ModbusDevice(VALUES, first.port))

    thread = threading.Thread(target=plug_in_again)
    thread.start()
    frame = source.read()
    thread.join(10)
    end(source)
    second[0].close()
    assert source.state()["reopened"] == 1
    assert source.counts()["missing"] >= 1
    assert frame.data["heat"] == 21.5


def test_a_register_that_is_not_there_and_a_device_that_is_not_there_have_their_codes(device):
    with pytest.raises(SourceError, match="holding registers from 900") as caught:
        opened(device.url, SourceContext(columns=("x",)), (Register(address=900),))
    assert caught.value.fault == "NOT_FOUND"
    with pytest.raises(SourceError, match="nothing answers there") as caught:
        opened(f"tcp://127.0.0.1:{free_port()}")
    assert caught.value.fault == "CONNECTION_FAILED"


def test_a_register_for_each_of_the_models_values_is_wanted():
    with pytest.raises(ConfigError, match="want 3, one for each of the model's values, got 1"):
        opened("tcp://x", registers=(Register(address=0),))
    assert list(ModbusOptions(uri="http://x").problems())


def test_neighbours_are_read_together_and_never_more_than_a_device_gives():
    registers = (*(Register(address=n) for n in range(130)), Register(address=1000, type="float64"))
    blocks = blocks_of((*registers, Register(address=0, table="input")))
    assert [(block.table, block.address, block.size) for block in blocks] == [
        ("holding", 0, 125),
        ("holding", 125, 5),
        ("holding", 1000, 4),
        ("input", 0, 1),
    ]
