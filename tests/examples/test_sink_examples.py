"""Each sink's example runs as it stands, on a small model and a made video, and does what it says."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest
from brokers import Broker, free_port, mosquitto_path, wait_for_server
from bundles import make_detector
from mqtt_ear import Ear

from edgekit.cli.main import main
from edgekit.pipeline.config import load_config

EXAMPLES = Path(__file__).parents[2] / "examples"
needs_mosquitto = pytest.mark.skipif(not mosquitto_path(), reason="no mosquitto")


@pytest.fixture
def example(tmp_path, capsys):
    """Copy a sink's example beside its model and video, and run it; the summary."""

    def run(name, **replaced):
        for file in (EXAMPLES / name).iterdir():
            text = file.read_text()
            for old, new in replaced.items():
                text = text.replace(f"localhost:{old.removeprefix('port_')}", f"localhost:{new}")
            (tmp_path / file.name).write_text(text)
        make_detector(tmp_path / "person-detect.ekb", labels=("person",))
        writer = cv2.VideoWriter(str(tmp_path / "door.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25.0, (64, 48))
        for seq in range(30):
            writer.write(np.full((48, 64, 3), seq * 8, np.uint8))
        writer.release()
        code = main(["run", str(tmp_path / f"{name}.toml"), "--json"])
        document = json.loads(capsys.readouterr().out)
        assert (code, document["frames"]["processed"], document["errors"]) == (0, 30, 0)
        return document

    return run


@pytest.fixture
def broker(tmp_path):
    made = Broker("mosquitto", tmp_path)
    made.start()
    yield made
    made.kill()


def test_sqlite(example, tmp_path):
    example("sqlite")
    with closing(sqlite3.connect(tmp_path / "seen.sqlite")) as db:
        assert db.execute("SELECT kind, label, count FROM events").fetchall() == [("appeared", "person", 1)]
        assert db.execute("SELECT count(*) FROM frames").fetchall() == [(30,)]


def test_http(example, tmp_path):
    (tmp_path / "secret.txt").write_text("not to be printed\n")
    port = free_port()
    receiver = subprocess.Popen(
        [sys.executable, EXAMPLES / "http/receive.py", tmp_path / "secret.txt", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        wait_for_server(port)  # a run that ends before its receiver is there leaves its queue to the next run
        document = example("http", port_8080=port)
        line = receiver.stdout.readline()
    finally:
        receiver.kill()
        receiver.wait()
        receiver.stdout.close()
    assert "io.edgekit.event.appeared" in line
    assert "'label': 'person'" in line
    (state,) = document["brokers"]
    assert (state["sent"], state["unsent"], state["refused"]) == (1, 0, 0)


def test_prometheus(example, tmp_path):
    example("prometheus")
    text = (tmp_path / "door.prom").read_text()
    assert 'edgekit_frames_total{pipeline="door",model="motion",version="1.0.0"} 30\n' in text
    assert 'edgekit_items{pipeline="door",label="person"} 1\n' in text
    if shutil.which("promtool"):
        done = subprocess.run(
            ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_modbus(example, tmp_path):
    pytest.importorskip("pymodbus", reason="the extra 'modbus' is not installed")
    from modbus_device import WRITE_COIL, WRITE_REGISTERS, ModbusDevice

    device = ModbusDevice([0] * 16)
    try:
        document = example("modbus-sink", port_502=device.port)
    finally:
        device.close()
    assert {(WRITE_COIL, 0, (True,)), (WRITE_REGISTERS, 10, (1,)), (WRITE_COIL, 0, (False,))} <= {
        (kind, address, tuple(values)) for kind, address, values in device.written
    }
    (state,) = document["brokers"]
    assert (state["unsent"], state["problem"]) == (0, "")


def test_opcua(example):
    pytest.importorskip("asyncua", reason="the extra 'opcua' is not installed")
    from opcua_server import OpcUaServer

    with OpcUaServer() as server:
        document = example("opcua", port_4840=server.port)
        server.wait("Door.Occupied", True)
        server.wait("Door.People", 1)
    (state,) = document["brokers"]
    assert (state["unsent"], state["problem"]) == (0, "")


def test_gpio_is_checked_up_to_the_chip():
    load_config(EXAMPLES / "gpio/gpio.toml")


def frames_of(path):
    capture, count = cv2.VideoCapture(str(path)), 0
    while capture.read()[0]:
        count += 1
    capture.release()
    return count


def test_video(example, tmp_path):
    example("recording")
    assert frames_of(tmp_path / "seen.mp4") == 30


def test_clips(example, tmp_path):
    example("clips")
    (clip,) = (tmp_path / "visits").glob("*.mp4")
    assert frames_of(clip) >= 28
    (event,) = json.loads(clip.with_suffix(".json").read_text())
    assert (event["kind"], event["label"]) == ("appeared", "person")


@needs_mosquitto
def test_mqtt(example, broker):
    ear = Ear(broker.port)
    example("mqtt", port_1883=broker.port)
    ear.wait(lambda: ear.last("edgekit/door/available") == b"offline")
    assert ear.last("edgekit/door")["label"] == "person"
    assert ear.last("edgekit/door/state") == b"ON"
    ear.stop()


@needs_mosquitto
def test_homeassistant(example, broker):
    ear = Ear(broker.port)
    example("homeassistant", port_1883=broker.port)
    ear.wait(lambda: any(topic.endswith("/available") for topic in ear.heard))
    assert any(topic.startswith("homeassistant/image/") for topic in ear.heard)
    ear.stop()
