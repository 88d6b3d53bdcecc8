"""Home Assistant by a real broker: what is announced and said, and that it would accept each message."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import jinja2
import numpy as np
import pytest
from brokers import Broker, mosquitto_path
from discovery import configs, problems
from mqtt_ear import Ear
from sink_results import CAR, event, result

from edgekit.core.ports import Versions
from edgekit.core.spec import Prediction
from edgekit.pipeline.profiles import ProfileTable
from edgekit.pipeline.sinks import SinkContext, make_sink
from edgekit.pipeline.sinks.homeassistant import HomeAssistantOptions
from edgekit.pipeline.switch import Switch
from edgekit.pipeline.tracking.tables import LineTable, ZoneTable
from edgekit.sync.publishers import Publishers

pytestmark = pytest.mark.skipif(not mosquitto_path(), reason="no mosquitto")
ALL = ("counts", "labels", "tracks", "pixels")
BASE = "edgekit/pi/door"
SQUARE = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0))
PLACES = {
    "zones": (
        ZoneTable(name="yard", polygon=SQUARE),
        ZoneTable(name="step", polygon=SQUARE, count="enter"),
    ),
    "lines": (LineTable(name="door", points=((0.5, 0.0), (0.5, 1.0)), directions=("in", "out")),),
}
PROFILES = (ProfileTable(name="day"), ProfileTable(name="night", run=False))


@pytest.fixture
def broker(tmp_path_factory):
    made = Broker("mosquitto", tmp_path_factory.mktemp("broker"))
    made.start()
    yield made
    made.kill()


@pytest.fixture
def ear(broker):
    made = Ear(broker.port)
    yield made
    made.stop()


class Books:
    def __init__(self):
        self.rows = []

    def add(self, *row):
        self.rows.append(row)


class Offer:
    """A model that the agent keeps up to date."""

    def __init__(self):
        self.known, self.asked, self.watchers = Versions("m", "1.0.0", "2.0.0"), [], []

    def versions(self):
        return self.known

    def ask(self, action):
        self.asked.append(action)

    def watch(self, watcher):
        self.watchers.append(watcher)
        return lambda: self.watchers.remove(watcher) if watcher in self.watchers else None


class Stage:
    """One sink on a real broker."""

    def __init__(self, broker, folder, *, egress=ALL, updates=None, places=None, profiles=(), **options):
        self.books, self.switch = Books(), Switch(folder / "switch.json", profiles)
        self.publishers = Publishers("door", egress, self.books)
        context = SinkContext(
            "door", folder, folder, egress=egress, switch=self.switch, updates=updates,
            connect=self.publishers.connect, **(places or {}),
        )  # fmt: skip
        keys = {"url": broker.url, "device": "pi", "every_s": 0.0, "image_s": 0.001, **options}
        self.sink = make_sink("homeassistant", HomeAssistantOptions(**keys), context)

    def close(self):
        self.sink.close()
        self.publishers.close()


@pytest.fixture
def stage(broker, ear, tmp_path):
    made = []

    def make(**keys):
        made.append(Stage(broker, tmp_path, **keys))
        ear.wait(lambda: ear.last(f"{BASE}/available") == b"online")
        return made[-1]

    yield make
    for entry in made:
        entry.close()


def test_a_run_that_is_over_before_the_broker_answers_is_announced_and_then_gone(broker, ear, tmp_path):
    Stage(broker, tmp_path).close()
    ear.wait(lambda: ear.last(f"{BASE}/available") == b"offline")
    assert ear.heard[f"{BASE}/available"] == [b"online", b"offline"]
    assert ear.last(f"{BASE}/state") == b"ON"
    assert "running" in configs(ear.heard, json.loads)


def states(ear):
    """The state of each entity as Home Assistant would compute it."""
    shown = {}
    for key, (_, config) in configs(ear.heard, json.loads).items():
        if "value_template" in config and (state := ear.last(config["state_topic"])) is not None:
            shown[key] = jinja2.Template(config["value_template"]).render(value_json=state)
    return shown


def seen(*kinds, label="car", **more):
    return result(events=[event(kind=kind, label=label, item=CAR, **more) for kind in kinds])


def all_configs(ear):
    """Everything that a pipeline announces, once it knows its model."""

    def found():
        rows = configs(ear.heard, json.loads)
        return (
            rows if "rollback" in rows and all("model" in row["device"] for _, row in rows.values()) else {}
        )

    return ear.wait(found)


def test_every_announced_entity_is_as_the_documentation_asks(stage, ear):
    made = stage(updates=Offer(), labels=("car",), places=PLACES, profiles=PROFILES)
    made.sink.write(seen("appeared"))
    found = all_configs(ear)
    assert sorted(found) == [
        "count", "count_car", "image", "line_door_in", "line_door_in_car", "line_door_out",
        "line_door_out_car", "model", "profile", "rollback", "running", "seen", "seen_car", "zone_step",
        "zone_yard",
    ]  # fmt: skip
    assert {key: problems(*config) for key, config in found.items()} == {key: [] for key in found}
    assert len({config["unique_id"] for _, config in found.values()}) == len(found)
    device = found["seen"][1]["device"]
    assert (device["model"], device["sw_version"]) == ("m", "1.0.0")


def test_what_is_seen_follows_the_events_and_not_each_frame(stage, ear):
    made = stage(labels=("car",))
    made.sink.write(result())  # in the picture, but not yet present
    ear.wait(lambda: states(ear).get("seen") == "OFF")
    made.sink.write(seen("appeared"))
    ear.wait(lambda: states(ear).get("seen_car") == "ON")
    assert (states(ear)["count"], states(ear)["count_car"], states(ear)["seen"]) == ("1", "1", "ON")
    made.sink.write(result(found=Prediction(task="detect")))  # missed in one frame
    made.sink.write(seen("vanished"))
    ear.wait(lambda: states(ear)["count"] == "0")
    assert [json.loads(p)["total"] for p in ear.heard[f"{BASE}/seen"]] == [0, 1, 0]
    assert states(ear)["seen_car"] == "OFF"


@pytest.mark.parametrize(
    ("egress", "keys", "fields"),
    [
        (("counts",), {"count", "running", "seen"}, {"total"}),
        (("labels",), {"count", "count_car", "running", "seen", "seen_car"}, {"counts"}),
        (("boxes",), {"running"}, None),
    ],
)
def test_only_what_egress_names_is_announced_and_sent(stage, ear, egress, keys, fields):
    made = stage(egress=egress, labels=("car",))
    made.sink.write(seen("appeared"))
    ear.wait(lambda: set(configs(ear.heard, json.loads)) == keys)
    made.close()
    ear.wait(lambda: ear.last(f"{BASE}/available") == b"offline")
    document = ear.last(f"{BASE}/seen")
    assert (None if document is None else set(document)) == fields
    if fields:
        assert states(ear)["count"] == "1"
    assert f"{BASE}/image" not in ear.heard
    heard = b"".join(payload for payloads in ear.heard.values() for payload in payloads)
    assert (b"car" in heard) == ("labels" in egress)


def test_every_byte_is_in_the_ledger(stage, ear):
    made = stage(updates=Offer(), labels=("car",))
    made.sink.write(seen("appeared"))
    all_configs(ear)
    made.close()
    ear.wait(lambda: ear.last(f"{BASE}/available") == b"offline")
    passed = sum(row[4] for row in made.books.rows if row[3] == "passed")
    # the last will went to the broker with the connection, and was never published
    assert passed == sum(len(p) for payloads in ear.heard.values() for p in payloads) + len(b"offline")
    assert {row[1] for row in made.books.rows} >= {"envelope", "labels", "counts", "pixels"}


def test_a_picture_is_a_small_jpeg_and_is_not_kept_by_the_broker(stage, ear, broker):
    import cv2

    made = stage()
    made.sink.write(result(data=np.full((720, 1280, 3), 90, np.uint8)))
    (data,) = ear.wait(lambda: ear.heard.get(f"{BASE}/image"))
    assert cv2.imdecode(np.frombuffer(data, np.uint8), 1).shape == (360, 640, 3)
    late = Ear(broker.port)
    late.wait(lambda: f"{BASE}/available" in late.retained)
    late.stop()
    assert f"{BASE}/image" not in late.heard


def places(ear):
    """The state of each sensor of a zone or line."""
    return {key: state for key, state in states(ear).items() if key.startswith(("line_", "zone_"))}


def test_lines_and_zones_have_sensors_before_their_first_count(stage, ear):
    stage(places=PLACES)
    keys = ("line_door_in", "line_door_out", "zone_step", "zone_yard")
    ear.wait(lambda: places(ear) == dict.fromkeys(keys, "0"))
    found = configs(ear.heard, json.loads)
    assert {key: problems(*found[key]) for key in keys} == {key: [] for key in keys}
    shown = {key: (found[key][1]["name"], found[key][1]["state_class"]) for key in keys}
    assert shown == {
        "line_door_in": ("Door in", "total_increasing"),
        "line_door_out": ("Door out", "total_increasing"),
        "zone_step": ("Step entered", "total_increasing"),
        "zone_yard": ("Yard inside", "measurement"),
    }


def test_a_line_counts_by_direction_in_all_and_of_each_label(stage, ear):
    made = stage(places=PLACES, labels=("car",))
    for count, label in enumerate(("car", "dog", "car"), 1):
        made.sink.write(seen("crossed", label=label, line="door", direction="in", count=count))
    made.sink.write(seen("crossed", label="dog", line="door", direction="out", count=1))
    wanted = {"line_door_in": "3", "line_door_in_car": "2", "line_door_out": "1", "line_door_out_car": "0"}
    ear.wait(lambda: {key: state for key, state in places(ear).items() if key in wanted} == wanted)


def test_who_left_a_zone_is_not_inside_and_nobody_is_while_it_is_off(stage, ear):
    made = stage(places=PLACES)
    made.sink.write(seen("entered", zone="yard", count=1))
    made.sink.write(seen("entered", zone="step", count=1))
    ear.wait(lambda: (places(ear).get("zone_yard"), places(ear).get("zone_step")) == ("1", "1"))
    made.sink.write(seen("left", zone="yard", count=0))
    ear.wait(lambda: places(ear)["zone_yard"] == "0")
    made.sink.write(seen("entered", zone="yard", count=1))
    ear.wait(lambda: places(ear)["zone_yard"] == "1")
    ear.say(f"{BASE}/set", "OFF")
    ear.wait(lambda: places(ear)["zone_yard"] == "0")
    assert places(ear)["zone_step"] == "1"


def test_sensors_beyond_the_bound_are_named_in_the_log(stage, ear, caplog):
    lines = tuple(LineTable(name=f"l{n}", points=((0.0, 0.0), (1.0, 1.0))) for n in range(101))
    stage(places={"lines": lines})
    assert "no sensor of line_l100_forward, line_l100_backward: at most 200" in caplog.text


def test_the_switch_turns_the_pipeline_and_survives_a_restart(stage, ear, tmp_path):
    made = stage()
    made.sink.write(seen("appeared"))
    ear.wait(lambda: ear.last(f"{BASE}/state") == b"ON")
    ear.say(f"{BASE}/set", "nonsense")
    ear.say(f"{BASE}/set", "OFF")
    ear.wait(lambda: ear.last(f"{BASE}/state") == b"OFF")
    assert not made.switch.is_on
    ear.wait(lambda: ear.last(f"{BASE}/seen")["total"] == 0)  # nothing is seen while it is off
    made.close()
    assert not Switch(tmp_path / "switch.json").is_on


def test_the_update_entity_installs_and_rolls_back(stage, ear):
    offer = Offer()
    stage(updates=offer)
    ear.wait(lambda: ear.last(f"{BASE}/update"))
    assert ear.last(f"{BASE}/update") == {
        "installed_version": "1.0.0",
        "latest_version": "2.0.0",
        "title": "m",
        "in_progress": False,
    }
    found = configs(ear.heard, json.loads)
    for key, payload in (("model", "payload_install"), ("rollback", "payload_press")):
        ear.say(found[key][1]["command_topic"], found[key][1][payload])
    ear.say(found["model"][1]["command_topic"], "rm -rf /")
    tick_until(lambda: offer.asked == ["install", "rollback"])
    offer.known = Versions("m", "2.0.0", "", is_busy=True)
    for watcher in offer.watchers:
        watcher()
    ear.wait(lambda: ear.last(f"{BASE}/update")["installed_version"] == "2.0.0")
    assert ear.last(f"{BASE}/update")["latest_version"] == "2.0.0"


def tick_until(claim):
    import threading

    tick = threading.Event()
    for _ in range(3000):
        if claim():
            return
        tick.wait(0.02)
    raise AssertionError("what was waited for did not come")


def test_everything_is_said_again_when_home_assistant_or_the_broker_restarts(stage, ear):
    made = stage()
    made.sink.write(seen("appeared"))
    topic = "homeassistant/sensor/edgekit_pi_door/count/config"
    ear.wait(lambda: ear.last(f"{BASE}/seen") and ear.last(f"{BASE}/seen")["total"])
    before = len(ear.heard[topic])
    ear.say("homeassistant/status", "online")
    ear.wait(lambda: len(ear.heard[topic]) > before)


VERSION = "2025.4.4"


@pytest.fixture(scope="module")
def home_assistant(tmp_path_factory):
    """The Python of an environment with Home Assistant; made once, which takes four minutes and 600 MB."""
    folder = Path(os.environ.get("EDGEKIT_TEST_CACHE", "/tmp")) / f"edgekit-homeassistant-{VERSION}"
    python = folder / "bin/python"
    if not (folder / "whole").exists():
        base = shutil.which("python3.13")
        if base is None or subprocess.run([base, "-c", ""], check=False).returncode:
            pytest.skip("no Python 3.13, which Home Assistant needs")
        subprocess.run([base, "-m", "venv", folder], check=True)
        packages = [f"homeassistant=={VERSION}", "paho-mqtt==2.1.0"]
        subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
        (folder / "whole").touch()
    return python


@pytest.mark.slow
@pytest.mark.timeout(2400)  # the installation
def test_home_assistants_own_schemas_accept_every_entity(stage, ear, home_assistant):
    labels = ("car", "traffic light")
    made = stage(updates=Offer(), labels=labels, places=PLACES, profiles=PROFILES)
    made.sink.write(seen("appeared"))
    kept = all_configs(ear)
    assert {"profile", "line_door_in", "line_door_in_traffic_light", "zone_yard"} <= kept.keys()
    found = list(kept.values())
    broken = [(platform, {**config, "device": {}}) for platform, config in found]
    done = subprocess.run(
        [home_assistant, Path(__file__).parents[1] / "kit/homeassistant_schemas.py"],
        input=json.dumps(found + broken), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert answers[: len(found)] == [""] * len(found)
    assert all(answers[len(found) :])  # it does refuse
