"""A pipeline that is switched off takes no frame, is not taken for hung, and stays off over a restart."""

import threading
import time

import pytest
from brokers import Broker, mosquitto_path
from mqtt_ear import Ear
from pipeline_fakes import ListSink, ListSource, make_predictor
from sink_results import event, result

from edgekit.core.errors import ConfigError, UsageError
from edgekit.pipeline.config import parse_config
from edgekit.pipeline.loop import Loop, Rules
from edgekit.pipeline.sinks import SinkContext, make_sink
from edgekit.pipeline.sinks.mqtt import MqttOptions
from edgekit.pipeline.switch import Switch
from edgekit.sync.publishers import Publishers


class Books:
    def add(self, *row):
        pass


def started(source, switch, sink):
    loop = Loop("p", source, make_predictor(), [sink], rules=Rules(switch=switch))
    thread = threading.Thread(target=loop.run)
    thread.start()
    return loop, thread


def until(claim):
    tick = threading.Event()
    for _ in range(3000):
        if claim():
            return
        tick.wait(0.01)
    raise AssertionError("what was waited for did not come")


def test_a_live_pipeline_drops_what_comes_while_it_is_off(tmp_path):
    switch, sink = Switch(), ListSink()
    source = ListSource(100_000, is_live=True, wait_s=0.001)
    loop, thread = started(source, switch, sink)
    until(lambda: len(sink.results) > 5)
    switch.turn(on=False)
    seen = source.given
    until(lambda: source.given > seen + 20)
    seen, progress = len(sink.results), loop.progress
    until(lambda: loop.progress > progress)  # the watchdog is fed
    assert len(sink.results) == seen
    switch.turn(on=True)
    until(lambda: len(sink.results) > seen + 5)
    loop.stop()
    thread.join()
    frames = loop.tally.document()["frames"]
    assert frames["captured"] == frames["processed"] + frames["dropped"]
    assert frames["dropped"] > 20


def test_a_file_waits_and_loses_nothing(tmp_path):
    switch, sink = Switch(tmp_path / "switch.json"), ListSink()
    switch.turn(on=False)
    loop, thread = started(ListSource(20), switch, sink)
    progress = loop.progress
    until(lambda: loop.progress > progress)
    assert sink.results == []
    switch.turn(on=True)
    thread.join(60)
    assert sink.seqs == list(range(20))


def test_it_is_kept_over_a_restart_and_a_damaged_file_means_on(tmp_path):
    path = tmp_path / "state/switch.json"
    Switch(path).turn(on=False)
    assert not Switch(path).is_on
    path.write_text("damaged")
    assert Switch(path).is_on


TEXT = """
[pipeline]
name = "door"
model = "m"
[source]
kind = "synthetic"
"""
PROFILES = """
[[profile]]
name = "day"
starts = "07:00"
score_threshold = 0.4
[[profile]]
name = "night"
starts = "22:00"
run = false
score_threshold = 0.4
[[profile]]
name = "maintenance"
run = false
score_threshold = 0.6
"""


class WallClock:
    """The device's local time, as the switch reads it."""

    def __init__(self, clock):
        self.clock = clock

    def strftime(self, _):
        return self.clock

    def time_ns(self):
        return time.time_ns()


@pytest.fixture
def wall(monkeypatch):
    clock = WallClock("08:00")
    monkeypatch.setattr("edgekit.pipeline.switch.time", clock)
    return clock


def test_a_profile_begins_by_the_clock_and_one_chosen_by_hand_stays_until_auto_also_over_a_restart(
    tmp_path, wall
):
    tables, tuned, path = parse_config(TEXT + PROFILES).profiles, [], tmp_path / "switch.json"
    switch = Switch(path, tables, tuned.append)

    def turned():
        return (switch.is_on, switch.turned.profile, switch.turned.why)

    switch.tick()
    assert turned() == (True, "day", "schedule, from 07:00: profile day")
    switch.turn(on=False, why="Home Assistant")
    switch.tick()  # the schedule turns it where a profile begins, and not against whoever did so since
    assert turned() == (False, "day", "Home Assistant")
    wall.clock = "22:00"
    switch.tick()
    assert turned() == (False, "night", "schedule, from 22:00: profile night")
    switch.command("Maintenance", "MQTT")
    wall.clock = "07:30"
    switch = Switch(path, tables, tuned.append)
    switch.tick()
    assert turned() == (False, "maintenance", "MQTT: profile maintenance")
    switch.command("auto", "MQTT")
    assert turned() == (True, "day", "MQTT: profile day")
    assert tuned == [0.4, 0.4, 0.6, 0.6, 0.4]
    with pytest.raises(UsageError, match="want on, off, auto, day, night, maintenance, got 'noon'"):
        switch.command("noon", "MQTT")
    with pytest.raises(UsageError, match="want on, off, got 'day'"):
        Switch().command("day", "MQTT")


def test_profiles_that_cannot_be_are_refused_with_the_reason():
    wrong = (
        PROFILES.replace('"night"', '"day"').replace("22:00", "7 pm").replace('"maintenance"', '"off"')
        + '[[profile]]\nname = "late"\nstarts = "07:00"\n'
    )
    with pytest.raises(ConfigError) as caught:
        parse_config(TEXT + wrong, "p.toml")
    assert [reason.split(", got")[0].removeprefix("p.toml:") for reason in caught.value.reasons] == [
        'profile[1].starts: want a time such as "07:00" or "22:30"',
        "profile[2].name: want lower-case letters, digits, '.', '_', '-', and not on, off, auto",
        "profile: the starts '07:00' stands twice",
        "profile: want score_threshold in every profile or in none",
    ]
    with pytest.raises(ConfigError) as caught:
        parse_config(TEXT + PROFILES + "[track]\n", "p.toml")
    assert caught.value.reasons[0].startswith("p.toml:profile: want no score_threshold beside [track]")


@pytest.mark.skipif(not mosquitto_path(), reason="no mosquitto")
def test_an_mqtt_sink_switches_and_says_so_with_retained_messages(tmp_path):
    broker = Broker("mosquitto", tmp_path)
    broker.start()
    tables = parse_config(TEXT + PROFILES).profiles
    ear, switch = Ear(broker.port), Switch(tmp_path / "switch.json", tables)
    publishers = Publishers("door", ["labels"], Books())
    context = SinkContext("door", tmp_path, tmp_path, switch=switch, connect=publishers.connect)
    sink = make_sink("mqtt", MqttOptions(url=broker.url, control=True), context)
    ear.wait(lambda: ear.last("edgekit/door/state") == b"ON")
    ear.say("edgekit/door/set", "off")
    ear.wait(lambda: ear.last("edgekit/door/state") == b"OFF")
    assert not Switch(tmp_path / "switch.json").is_on
    ear.say("edgekit/door/set", "day")
    ear.wait(lambda: (ear.last("edgekit/door/state"), ear.last("edgekit/door/profile")) == (b"ON", b"day"))
    ear.say("edgekit/door/set", "night")
    ear.wait(lambda: ear.last("edgekit/door/profile") == b"night")
    sink.write(result(events=[event()]))
    ear.wait(lambda: ear.last("edgekit/door"))
    late = Ear(broker.port)
    late.wait(lambda: {"edgekit/door/state", "edgekit/door/available"} <= late.retained)
    assert late.last("edgekit/door/state") == b"OFF"
    late.stop()
    sink.close()
    ear.wait(lambda: ear.last("edgekit/door/available") == b"offline")
    publishers.close()
    (state,) = publishers.states()
    assert (state["unsent"], state["dropped"]) == (0, 0)
    ear.stop()
    broker.kill()


def test_a_switch_on_the_agents_own_link_is_a_problem():
    (problem,) = MqttOptions(control=True).problems()
    assert problem.startswith("control: want it with url")
