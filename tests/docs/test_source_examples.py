"""Every example of a source runs as it stands, with a stand-in model, and stands in the documentation."""

import json
import os
import threading
import tty
from pathlib import Path

import cv2
import msgspec
import numpy as np
import paho.mqtt.client as paho
import pytest
from brokers import Broker, mosquitto_path
from iio_tree import plant_accelerometer
from paho.mqtt.enums import CallbackAPIVersion
from picture_server import PictureServer
from single_model import write_image_bundle, write_window_bundle

from edgekit.agent.cameras import put_in_force
from edgekit.agent.config import parse_agent_config
from edgekit.agent.worker.runner import run_pipeline
from edgekit.core.cameras import CameraList, camera_problems
from edgekit.pipeline.config import config_problems, load_config
from edgekit.pipeline.sources import SOURCES
from edgekit_fleet.cameras.written import read_cameras

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/pipelines.md").read_text(encoding="utf-8")
CAMERAS = (ROOT / "examples/fleet/cameras.toml").read_text(encoding="utf-8")
NOT_RUN_HERE = "# Not run here"
"""How an example begins that needs what no test machine has."""


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.zeros((8, 8, 3), np.uint8))


def images(folder):
    for name in ("cat/1.png", "dog/1.png", "dog/2.png"):
        picture(folder / "pictures" / name)


def inbox(folder):
    for number in range(3):
        picture(folder / f"inbox/{number}.png")


def table(folder):
    rows = [f"{n * 20},{n},0,1" for n in range(8)]
    (folder / "recording.csv").write_text("\n".join(["time_ms,ax,ay,az", *rows]))


def line(folder):
    sensor, port = os.openpty()
    tty.setraw(port)
    text = (folder / "serial.toml").read_text().replace("/dev/ttyUSB0", os.ttyname(port))
    (folder / "serial.toml").write_text(text)
    ended = threading.Event()

    def write():
        at_ms = 0
        while not ended.wait(0.002):
            os.write(sensor, b"%d;0,5;-0,9;1\n" % at_ms)
            at_ms += 20

    writer = threading.Thread(target=write)
    writer.start()
    return lambda: (ended.set(), writer.join(), os.close(sensor), os.close(port))


def sound(folder):
    soundfile = pytest.importorskip("soundfile", reason="the extra 'audio' is not installed")
    soundfile.write(folder / "recording.flac", np.zeros(4000), 16_000)


def with_address(name, address, made):
    """Change an example's address to that of a device of this machine's; return what ends the device."""
    path = next(made.glob("*.toml"))
    path.write_text(path.read_text().replace(name, address))


def snapshots(folder):
    server = PictureServer()
    with_address("http://camera.lan", server.url, folder)
    (folder / "camera.secret").write_text("secret\n")
    return server.close


def published(folder):
    if not mosquitto_path():
        pytest.skip("no mosquitto")
    broker = Broker("mosquitto", folder)
    broker.start()
    with_address("mqtt://broker.lan", broker.url, folder)
    (folder / "broker.secret").write_text("secret\n")
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    ended = threading.Event()

    def publish():
        while not ended.wait(0.005):
            client.publish("plant/7/imu", '{"time_ms": 20, "ax": 0.5, "ay": -1, "az": 0}')

    writer = threading.Thread(target=publish)
    writer.start()
    return lambda: (ended.set(), writer.join(), client.disconnect(), client.loop_stop(), broker.kill())


def registers(folder):
    pytest.importorskip("pymodbus", reason="the extra 'modbus' is not installed")
    from modbus_device import ModbusDevice

    device = ModbusDevice([1, 2, 3, 4])
    with_address("tcp://192.168.1.20:502", device.url, folder)
    return device.close


def accelerometer(folder):
    plant_accelerometer(folder)
    with_address('uri = "lsm6dso_accel"', f'uri = "lsm6dso_accel"\nroot = "{folder}"', folder)


def of_the_fleet(folder):
    """Give a device the fleet's list, and put into the example what its agent makes of it."""
    server = PictureServer()
    server.login = "basic"
    [camera] = read_cameras(CAMERAS.replace("http://door.lan", server.url), "cameras.toml")
    camera = msgspec.structs.replace(camera, password_unix_ms=1)
    fetched = CameraList(device="box", cameras=(camera,), passwords={"door": server.password}, salt="s")
    put_in_force(folder / "state", fetched, "1")
    agent = parse_agent_config(
        '[[pipeline]]\nfile = "fleet.toml"', folder=folder, state=folder / "state", check=config_problems
    )
    (folder / "fleet.toml").write_text(agent.pipelines[0].text)
    return server.close


RUNNABLE = {
    "images": images,
    "folder": inbox,
    "table": table,
    "serial": line,
    "audio": sound,
    "http-source": snapshots,
    "modbus": registers,
    "iio": accelerometer,
    "mqtt-source": published,
    "fleet": of_the_fleet,
    "synthetic": lambda _folder: None,
}


def file_of(kind):
    return ROOT / "examples" / kind / f"{kind.removesuffix('-source')}.toml"


@pytest.mark.parametrize("kind", RUNNABLE)
def test_an_example_runs_as_it_stands(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKIT_STATE", str(tmp_path / "state"))
    path = tmp_path / file_of(kind).name
    path.write_text(file_of(kind).read_text(encoding="utf-8"))
    write_image_bundle(tmp_path / "classifier.ekb")
    write_window_bundle(tmp_path / "motion.ekb")
    write_window_bundle(tmp_path / "sounds.ekb", window=800, hop=400, channels=1, rate_hz=16_000)
    tidy = RUNNABLE[kind](tmp_path)
    try:
        ran = run_pipeline(path, frames=3)
    finally:
        if tidy is not None:
            tidy()
    assert ran.document["frames"]["processed"] == 3
    rows = [json.loads(line) for line in (tmp_path / "seen.jsonl").read_text().splitlines()]
    assert len(rows) == 3
    if kind in ("images", "folder"):
        assert all(row["file"].endswith(".png") for row in rows)


def test_the_example_of_a_recording_runs_as_it_stands(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKIT_STATE", str(tmp_path / "state"))
    path = tmp_path / "examples/video.toml"
    path.parent.mkdir()
    path.write_text((ROOT / "examples/video.toml").read_text(encoding="utf-8"))
    write_image_bundle(tmp_path / "ssd-oidv4-2.0.0")
    writer = cv2.VideoWriter(str(tmp_path / "bikes.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25.0, (64, 48))
    for shade in range(5):
        writer.write(np.full((48, 64, 3), 40 * shade, np.uint8))
    writer.release()
    assert run_pipeline(path).document["frames"]["processed"] == 5
    assert len((tmp_path / "detections.jsonl").read_text().splitlines()) == 5
    assert list(tmp_path.glob("detections.*"))[1:], "the video with boxes too"


def test_every_source_has_an_example():
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "examples").rglob("*.toml")]
    sources = [text.partition("[source]\n")[2].partition("\n\n")[0] for text in texts]
    assert [kind for kind in SOURCES if not any(f'kind = "{kind}"\n' in text for text in sources)] == []


def examples_of_sources():
    """Yield each example that is a pipeline with a source of its folder's name."""
    for path in sorted((ROOT / "examples").glob("*/*.toml")):
        if (
            f'\nkind = "{path.stem.removesuffix("-source")}"\n'
            in path.read_text(encoding="utf-8").partition("[[sink]]")[0]
        ):
            yield path


@pytest.mark.parametrize("path", list(examples_of_sources()), ids=lambda path: path.parent.name)
def test_an_example_is_a_valid_pipeline_and_is_run_or_says_that_it_is_not(path):
    load_config(path)
    is_run = path.parent.name in RUNNABLE
    assert is_run != path.read_text(encoding="utf-8").startswith(NOT_RUN_HERE)


@pytest.mark.parametrize("kind", RUNNABLE)
def test_the_documentation_shows_the_example_that_is_run(kind):
    text = file_of(kind).read_text(encoding="utf-8")
    source = text.partition("[source]\n")[2].partition("\n\n")[0]
    assert f"```toml\n[source]\n{source}\n```" in PAGE


def test_the_fleet_takes_the_lists_of_cameras_that_are_shown():
    page = (ROOT / "docs/cameras.md").read_text(encoding="utf-8")
    shown = page.partition("```toml\n")[2].partition("```")[0]
    for text in (shown, CAMERAS):
        cameras = read_cameras(text, "cameras.toml")
        assert [camera.name for camera in cameras] == ["door"]
        assert camera_problems(cameras) == []
