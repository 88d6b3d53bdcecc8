"""Messages of a topic become frames: pictures, rows, windows; the broker may go and come back."""

import threading
import time
import zlib

import cv2
import numpy as np
import paho.mqtt.client as paho
import pytest
from brokers import Broker, free_port, mosquitto_path
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgekit.core.errors import SourceError
from edgekit.pipeline.sources import SourceContext, make_source
from edgekit.pipeline.sources.mqtt import WAITING, MqttOptions

pytestmark = pytest.mark.skipif(not mosquitto_path(), reason="no mosquitto")
ROW = SourceContext(columns=("load", "kind"))
PICTURES = SourceContext()
WINDOWS = SourceContext(window=2, hop=2, channels=3)


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    made = Broker("mosquitto", tmp_path_factory.mktemp("broker"))
    made.start()
    yield made
    made.kill()


def topic_of(request):
    return f"t{zlib.crc32(request.node.name.encode())}"


@pytest.fixture
def opened(broker, request):
    sources = []

    def make(context=PICTURES, **options):
        topic = f"{topic_of(request)}/+"
        source = make_source("mqtt", MqttOptions(uri=broker.url, topic=topic, **options), context)
        source.open()
        sources.append(source)
        return source

    yield make
    for source in sources:
        source.close()
        source.read()


@pytest.fixture
def say(broker, request):
    def publish(*payloads):
        client = paho.Client(CallbackAPIVersion.VERSION2)
        client.connect("127.0.0.1", broker.port)
        client.loop_start()
        for payload in payloads:
            client.publish(f"{topic_of(request)}/a", payload, qos=1).wait_for_publish(10)
        client.disconnect()
        client.loop_stop()

    return publish


def test_pictures_are_frames_and_what_is_none_is_a_gap_named_once(opened, say, caplog):
    source = opened()
    picture = cv2.imencode(".png", np.full((8, 8, 3), 70, np.uint8))[1].tobytes()
    say(picture, b"no picture", b"nor this", picture)
    frames = [source.read(), source.read()]
    assert [frame.seq for frame in frames] == [0, 3]
    assert frames[1].data.mean() == 70
    assert frames[0].meta["topic"].endswith("/a")
    assert source.counts() == {"rejected": 2, "overrun": 0}
    assert caplog.text.count("is left out") == 1


TRACE = "0af7651916cd43dd8448eb211c80319c"


def test_a_message_hands_on_its_trace_where_that_is_asked_for(opened, broker, request):
    source = opened(trace=True)
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    picture = cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes()
    for parent in (f"00-{TRACE}-b7ad6b7169203331-01", "00-nonsense-1-01"):
        properties = Properties(PacketTypes.PUBLISH)
        properties.UserProperty = [("other", "1"), ("traceparent", parent)]
        topic = f"{topic_of(request)}/a"
        client.publish(topic, picture, qos=1, properties=properties).wait_for_publish(10)
    client.disconnect()
    client.loop_stop()
    assert [source.read().meta.get("trace_id") for _ in range(2)] == [TRACE, None]


@pytest.mark.parametrize("payload", ["[1.5, 2, -3]", '{"x": 1.5, "z": -3, "y": 2}', "1.5;2;-3", "1.5 2 -3"])
def test_numbers_are_samples_of_windows_in_json_or_text(opened, say, payload):
    columns = ("x", "y", "z") if payload.startswith("{") else ()
    source = opened(WINDOWS, columns=columns)
    say(payload, payload, "[1, 2]", payload, payload)
    frames = [source.read(), source.read()]
    assert [frame.data.tolist() for frame in frames] == [[[1.5, 2, -3]] * 2] * 2
    assert frames[1].seq > 1
    assert source.counts()["rejected"] == 1


def test_a_model_of_tables_takes_objects_by_its_columns_names(opened, say):
    source = opened(ROW)
    say('{"kind": "fan", "load": null, "more": 1}', '{"load": 2}', '["3", "pump"]')
    assert [source.read().data for _ in range(2)] == [
        {"load": "", "kind": "fan"},
        {"load": "3", "kind": "pump"},
    ]
    assert source.counts()["rejected"] == 1


def test_messages_that_come_too_fast_or_are_too_large_are_counted(opened, say):
    source = opened(WINDOWS, max_mb=0.001)
    say(*["1 2 3"] * (WAITING + 10))
    deadline_s = time.monotonic() + 60
    while source.counts()["overrun"] < 10 and time.monotonic() < deadline_s:  # then all of them are there
        time.sleep(0.005)
    assert source.counts()["overrun"] == 10
    for _ in range(WAITING // 2):
        source.read()
    say("1" * 2000, "1 2 3", "1 2 3")
    source.read()
    assert source.counts()["rejected"] == 1


def test_a_source_that_is_closed_between_two_frames_ends_its_connection(opened, say):
    """A run of so many frames may read no more."""
    source = opened(WINDOWS)
    say("1 2 3", "1 2 3")
    source.read()
    before = threading.active_count()
    source.close()
    assert threading.active_count() == before - 1


def test_a_broker_that_is_killed_is_connected_again(tmp_path):
    broker = Broker("mosquitto", tmp_path)
    broker.start()
    source = make_source("mqtt", MqttOptions(uri=broker.url, topic="t"), WINDOWS)
    source.open()
    broker.kill()
    read = []
    thread = threading.Thread(target=lambda: read.append(source.read()))
    thread.start()
    while not source.reopener.is_waiting:
        time.sleep(0.005)
    broker.start()
    while not source.reopener.reopened:
        time.sleep(0.005)
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    for _ in range(2):
        client.publish("t", "1 2 3", qos=1).wait_for_publish(10)
    thread.join(10)
    client.disconnect()
    client.loop_stop()
    source.close()
    source.read()
    broker.kill()
    assert read[0].data.tolist() == [[1, 2, 3]] * 2
    assert source.state()["fault"] == "CONNECTION_FAILED"


def test_no_broker_has_its_code_and_a_wait_can_be_ended(opened):
    with pytest.raises(SourceError) as caught:
        make_source("mqtt", MqttOptions(uri=f"mqtt://127.0.0.1:{free_port()}", topic="t"), WINDOWS).open()
    assert caught.value.fault == "CONNECTION_FAILED"
    source, ended = opened(WINDOWS), []
    thread = threading.Thread(target=lambda: ended.append(source.read()))
    thread.start()
    source.close()
    thread.join(10)
    assert ended == [None]


@pytest.mark.parametrize("uri", ["http://x", "mqtt://", "mqtt://x:y", "broker.lan"])
def test_an_address_that_cannot_be_right_is_refused(uri):
    assert len(list(MqttOptions(uri=uri, topic="t").problems())) == 1
    (problem,) = MqttOptions(uri="mqtt://ann:hunter2@x", topic="t").problems()
    assert "hunter2" not in problem
