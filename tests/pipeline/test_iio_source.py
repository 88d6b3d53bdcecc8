"""Sensors of the kernel's Industrial I/O: found by name, scaled, polled, or read from their buffer."""

import os
import struct
import threading
import time

import pytest
from iio_tree import plant_accelerometer

from edgekit.core.errors import ConfigError, SourceError
from edgekit.pipeline.sources import SourceContext, make_source
from edgekit.pipeline.sources.iio import IioOptions, Layout, find_device, layouts_of

AXES = ("accel_x", "accel_y", "accel_z")
ROW = SourceContext(columns=("x", "y", "z"))


def opened(root, *, context=ROW, channels=AXES, **options):
    options = {"rate_hz": 200.0, "root": str(root), **options}
    source = make_source("iio", IioOptions(uri="lsm6dso_accel", channels=channels, **options), context)
    source.open()
    return source


def end(source):
    source.close()
    assert source.read() is None


def test_channels_are_read_by_name_in_the_models_order_and_scaled(tmp_path):
    plant_accelerometer(tmp_path)
    source = opened(tmp_path, channels=("accel_z", "accel_x", "temp"))
    frame = source.read()
    end(source)
    assert frame.data == {"x": pytest.approx(9.8), "y": pytest.approx(1.0), "z": 21500.0}


def test_channels_become_windows_of_a_sensor_model(tmp_path):
    plant_accelerometer(tmp_path)
    source = opened(tmp_path, context=SourceContext(window=3, hop=3, channels=3))
    frames = [source.read() for _ in range(2)]
    end(source)
    assert [frame.seq for frame in frames] == [0, 1]
    assert frames[0].data[2] == pytest.approx([1.0, -2.0, 9.8])


def test_a_device_that_is_not_there_or_ambiguous_is_named_with_those_that_are(tmp_path):
    with pytest.raises(SourceError, match="no such device") as caught:
        find_device(tmp_path, "bmi160")
    assert "none" in caught.value.hint
    plant_accelerometer(tmp_path)
    assert find_device(tmp_path, "iio:device0") == find_device(tmp_path, "lsm6dso_accel")
    plant_accelerometer(tmp_path, number=1)
    with pytest.raises(SourceError, match="several have that name") as caught:
        find_device(tmp_path, "lsm6dso_accel")
    assert "iio:device1 (lsm6dso_accel)" in caught.value.hint


def test_an_unknown_channel_is_named_with_those_that_the_device_has(tmp_path):
    plant_accelerometer(tmp_path)
    with pytest.raises(SourceError, match="'accel_w'") as caught:
        opened(tmp_path, channels=("accel_x", "accel_y", "accel_w"))
    assert "accel_x, accel_y, accel_z" in caught.value.hint
    with pytest.raises(ConfigError, match="channels: want 3"):
        opened(tmp_path, channels=("accel_x",))


def test_a_device_that_vanishes_is_opened_again_and_the_gap_is_counted(tmp_path):
    folder = plant_accelerometer(tmp_path)
    source = opened(tmp_path)
    source.read()
    file, gone = folder / "in_accel_y_raw", folder / "gone"
    file.rename(gone)

    def bring_back():
        while not source.reopener.is_waiting:
            time.sleep(0.002)
        gone.rename(file)

    helper = threading.Thread(target=bring_back)
    helper.start()
    assert source.read().data["y"] == pytest.approx(-2.0)
    helper.join()
    assert source.counts() == {"missing": 1}
    assert source.state()["reopened"] == 1
    end(source)


def test_a_buffer_is_set_up_read_in_whole_scans_and_stopped(tmp_path):
    folder = plant_accelerometer(tmp_path)
    node = os.open(tmp_path / "dev" / folder.name, os.O_RDWR)
    source = opened(tmp_path, buffered=True, rate_hz=104.0, trigger="lsm6dso-dev0")
    written = {path: (folder / path).read_text().strip() for path in (
        "buffer/enable", "trigger/current_trigger", "sampling_frequency",
        "scan_elements/in_accel_x_en", "scan_elements/in_timestamp_en",
    )}  # fmt: skip
    assert list(written.values()) == ["1", "lsm6dso-dev0", "104", "1", "0"]
    scans = struct.pack("<6h", 100 << 4, -200 << 4, 981 << 4, 1 << 4, 2 << 4, 3 << 4)
    os.write(node, scans[:8])  # a scan and a third
    first = source.read()
    os.write(node, scans[8:])
    second = source.read()
    assert first.data == {"x": pytest.approx(1.0), "y": pytest.approx(-2.0), "z": pytest.approx(9.8)}
    assert second.data == {"x": pytest.approx(0.01), "y": pytest.approx(0.02), "z": pytest.approx(0.02)}
    end(source)
    os.close(node)
    assert (folder / "buffer/enable").read_text() == "0"


@pytest.mark.parametrize(
    ("layout", "scan", "raw"),
    [
        (Layout(0, 2, is_big=False, is_signed=True, bits=12, shift=4), b"\xf0\xff", -1),
        (Layout(0, 2, is_big=True, is_signed=False, bits=16, shift=0), b"\x01\x02", 258),
        (Layout(2, 4, is_big=False, is_signed=True, bits=24, shift=8), b"\0\0\xff\0\0\x80", -(1 << 23)),
        (Layout(1, 1, is_big=False, is_signed=False, bits=8, shift=0), b"\0\xff", 255),
    ],
)
def test_a_scans_bits_are_read_as_the_kernel_states_them(layout, scan, raw):
    assert layout.value(scan) == raw


def test_a_type_that_the_kernel_does_not_write_is_refused():
    with pytest.raises(SourceError, match="'le:q8'"):
        layouts_of({"x": (0, "le:q8")})
