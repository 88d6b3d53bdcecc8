"""Whatever a device sends: what is good is stored, what is not is set aside, and nothing stops."""

import hashlib
import threading

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.core import wire
from edgekit.core.errors import ProtocolError, StorageError
from edgekit_fleet.broker.strangers import Strangers
from edgekit_fleet.ingest.intake import MAX_ITEMS, Intake, Message, take_until_done

NOW_MS = 1_790_000_000_000


class Down:
    """Remembers what was sent down."""

    def __init__(self):
        self.sent = []

    def publish(self, device, leaf, body, *, retain=False):
        self.sent.append((device, leaf, body))

    def acks(self):
        """The watermarks that were sent."""
        return [wire.Ack(ack.boot, ack.watermark) for ack in self.whole_acks() if ack.boot]

    def whole_acks(self):
        return [wire.decode(body, wire.Ack) for _, leaf, body in self.sent if leaf == "ack"]

    def answers(self):
        return [wire.decode_response(body) for _, leaf, body in self.sent if leaf == "res"]


@pytest.fixture
def down(services):
    services.downlink = Down()
    services.devices.enroll("d", NOW_MS, None)
    return services.downlink


@pytest.fixture
def intake(services, down):
    return Intake(services, lambda: NOW_MS, Strangers())


def message(leaf, body, device="d", arrived_ms=NOW_MS):
    payload = body if isinstance(body, bytes) else wire.encode(body)
    return Message(wire.up(device, leaf), payload, arrived_ms)


def alert(text="x"):
    return wire.Alert(mono_ns=0, unix_ms=NOW_MS, level="info", code="test", message=text)


def batch(seq0, *items, boot="b"):
    return wire.Batch(boot=boot, seq0=seq0, items=list(items))


def test_the_watermark_is_sent_after_the_commit(services, intake, down):
    seen = []
    services.hooks.on_committed.append(
        lambda device, records: seen.append((device, len(records), len(down.sent)))
    )
    intake.take([message("ev", batch(1, alert(), alert())), message("m", batch(3, alert()))])
    assert down.acks() == [wire.Ack("b", 3)]
    assert seen == [("d", 3, 0)]


def test_hooks_hear_of_each_record_once(services, intake):
    seen = []
    services.hooks.on_committed.append(lambda _, records: seen.extend(one.message for one in records))
    for _ in range(2):
        intake.take([message("ev", batch(1, alert("a"), alert("b")))])
    assert seen == ["a", "b"]
    assert intake.counters["repeated"] == 2


def test_a_birth_is_told_what_was_committed(services, intake, down):
    intake.take([message("ev", batch(1, alert()))])
    intake.take([message("state", wire.Birth(online=True, boot="b", conn=1))])
    assert down.acks()[-1] == wire.Ack("b", 1)
    assert services.devices.get("d").online


def test_a_will_that_comes_late_is_passed_over(services, intake):
    states = []
    services.hooks.on_state.append(lambda _, birth: states.append(birth.online))
    intake.take([message("state", wire.Birth(online=True, boot="b", conn=2))])
    intake.take([message("state", wire.Birth(online=False, boot="b", conn=1))])
    assert states == [True]
    assert services.devices.get("d").online


def test_a_reported_state_reaches_the_hooks_once(services, intake):
    seen = []
    services.hooks.on_reported.append(lambda _, reported: seen.append(reported.version))
    for version in (2, 1):
        intake.take([message("reported", wire.Reported("b", version, 0))])
    assert seen == [2]


def test_requests_are_answered(services, intake, down):
    services.hooks.requests["chunk"] = lambda _, request: wire.Chunk(request.id, 0, b"data")

    def refuse(_device, _request):
        raise ProtocolError("not so")

    services.hooks.requests["desired"] = refuse
    for number, kind in enumerate(("time", "chunk", "desired")):
        intake.take([message("req", wire.Request(number, kind))])
    now, chunk, refused = down.answers()
    assert now.result["unix_ms"] > NOW_MS / 2
    assert chunk == wire.Chunk(1, 0, b"data")
    assert refused.error == "link.protocol: not so"


def test_a_request_that_nobody_answers_is_told(services, intake, down):
    del services.hooks.requests["chunk"]
    intake.take([message("req", wire.Request(1, "chunk"))])
    assert "does not answer 'chunk'" in down.answers()[0].error


def test_a_request_that_waited_too_long_is_not_answered(intake, down):
    intake.take([message("req", wire.Request(1, "time"), arrived_ms=NOW_MS - 61_000)])
    assert down.sent == []


def test_a_file_comes_in_pieces(services, intake, down):
    content = bytes(range(256)) * 1000
    sha256 = hashlib.sha256(content).hexdigest()
    services.registry.repository.blobs.put(sha256, len(content), [content])
    got = b""
    while len(got) < len(content):
        down.sent.clear()
        intake.take(
            [
                message(
                    "req", wire.Request(1, "chunk", {"sha256": sha256, "offset": len(got), "length": 1 << 20})
                )
            ]
        )
        (piece,) = down.answers()
        assert piece.offset == len(got)
        got += piece.data
    assert got == content


@pytest.mark.parametrize(
    "args",
    [
        {},
        {"sha256": "0" * 64, "offset": 0, "length": 1},
        {"sha256": "../../ca/ca.key", "offset": 0, "length": 1},
        {"sha256": "0" * 64, "offset": -1, "length": 1},
        {"sha256": "0" * 64, "offset": 0, "length": 0},
        {"sha256": "0" * 64, "offset": True, "length": 1},
        {"sha256": 5, "offset": 0, "length": 1},
    ],
)
def test_a_piece_of_no_file_is_refused(intake, down, args):
    intake.take([message("req", wire.Request(1, "chunk", args))])
    assert down.answers()[0].error.split(":")[0] in ("link.protocol", "model.bundle")


def test_a_certificate_is_renewed_on_request(services, intake, down):
    from fleet_kit import Identity

    intake.take([message("req", wire.Request(1, "renew", {"csr": Identity().csr()}))])
    intake.take([message("req", wire.Request(2, "renew", {"csr": "nonsense"}))])
    renewed, refused = down.answers()
    assert renewed.result["certificate"].startswith("-----BEGIN CERTIFICATE")
    assert renewed.result["ca"] == services.identity.certificate_pem
    assert refused.error.startswith("link.enroll")


def test_a_record_of_an_unknown_kind_does_not_hold_up_the_others(services, intake, down):
    """A newer device may send what this version does not know."""
    body = msgspec.msgpack.decode(wire.encode(batch(1, alert("a"), alert("b"), alert("c"))))
    body["items"][1] = {"type": "of the future", "x": 1}
    intake.take([message("ev", msgspec.msgpack.encode(body))])
    assert down.acks() == [wire.Ack("b", 3)]
    assert [one.body["message"] for one in services.metrics.events()] == ["c", "a"]
    assert "future" in services.messages.refused()[0].reason


@pytest.mark.parametrize(
    "bad",
    [
        batch(0, alert()),
        batch(-1, alert()),
        batch(1 << 62, alert()),
        batch(1),
        batch(1, alert(), boot=""),
        batch(1, alert(), boot="x" * 129),
        wire.RawBatch(boot="b", seq0=1, items=[msgspec.Raw(b"\x01")] * (MAX_ITEMS + 1)),
        wire.Batch(boot="b", seq0=1, items=[alert()], sent_unix_ms=1 << 63),
    ],
    ids=["from 0", "from -1", "from 2^62", "empty", "no boot", "long boot", "too many", "far future"],
)
def test_an_impossible_batch_is_set_aside(services, intake, down, bad):
    intake.take([message("ev", bad), message("ev", batch(1, alert("good")))])
    assert down.acks() == [wire.Ack("b", 1)]
    assert len(services.messages.refused()) == 1


def test_an_unknown_device_is_set_aside(services, intake, down):
    intake.take([message("ev", batch(1, alert()), device="stranger")])
    assert down.sent == []
    assert "not enrolled" in services.messages.refused()[0].reason


def test_clearing_the_retained_state_is_nothing(services, intake):
    intake.take([message("state", b"")])
    assert services.messages.refused() == []


def encoded(document):
    """The document in the codec of either kind of topic; the payload itself where it fits neither."""
    try:
        return msgspec.json.encode(document) if len(document) % 2 else msgspec.msgpack.encode(document)
    except (OverflowError, ValueError, TypeError, UnicodeEncodeError):
        return repr(document).encode("utf-8", "replace")


leaves = st.sampled_from(["state", "reported", "m", "ev", "req"])
json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
fields = st.dictionaries(
    st.sampled_from(
        [
            "boot",
            "seq0",
            "items",
            "online",
            "conn",
            "version",
            "desired",
            "models",
            "id",
            "kind",
            "args",
            "unix_ms",
            "type",
        ]
    ),
    json_like | st.integers(-(1 << 64), 1 << 64) | st.sampled_from(["b", "time", "renew", "alert"]),
)


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(leaf=leaves, payload=st.binary(max_size=200) | fields.map(encoded))
def test_no_payload_on_any_topic_stops_ingest(services, intake, down, leaf, payload):
    down.sent.clear()
    boot = f"boot-{intake.counters['messages']}"
    intake.take([message(leaf, payload), message("ev", batch(1, alert(), boot=boot))])
    assert wire.Ack(boot, 1) in down.acks()


@given(
    topic=st.text(max_size=60)
    | st.sampled_from(["ek/v1/d/down/ack", "ek/v1/d/up/other", "ek/v1//up/ev", "ek/v2/d/up/m"])
)
@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_no_topic_stops_ingest(intake, topic):
    refused = intake.counters["refused"]
    intake.take([Message(topic, b"{}", NOW_MS)])
    assert intake.counters["refused"] == refused + 1


def test_a_hook_that_fails_is_counted_and_does_not_stop_the_others(services, intake, down):
    def fail(*_):
        raise KeyError("a bug")

    heard = []
    for hooks in (services.hooks.on_committed, services.hooks.on_state, services.hooks.on_reported):
        hooks += [fail, lambda *told: heard.append(told)]
    services.hooks.requests["chunk"] = fail
    intake.take(
        [
            message("ev", batch(1, alert())),
            message("state", wire.Birth(online=True, boot="b", conn=1)),
            message("reported", wire.Reported("b", 1, 0)),
            message("req", wire.Request(7, "chunk")),
        ]
    )
    assert len(heard) == 3
    assert intake.counters["hook_failures"] == 4
    assert wire.Ack("b", 1) in down.acks()
    assert down.answers() == [wire.Response(7, error="edgekit.bug: the fleet manager failed")]


def test_while_the_store_fails_the_same_messages_are_tried_again(services, intake, down, monkeypatch):
    """The broker is not told to forget, and nothing is acknowledged to the device before."""
    real, fails = services.messages.commit, iter([True, True, False])

    def commit(arrived):
        if next(fails):
            assert down.sent == []
            raise StorageError("the disk is full")
        return real(arrived)

    monkeypatch.setattr(services.messages, "commit", commit)
    assert take_until_done(intake, [message("ev", batch(1, alert()))], threading.Event())
    assert down.acks() == [wire.Ack("b", 1)]
    assert intake.counters["store_failures"] == 2


def test_a_stop_while_the_store_fails_leaves_the_messages_to_the_broker(services, intake, monkeypatch):
    stopping = threading.Event()

    def commit(_arrived):
        stopping.set()
        raise StorageError("the disk is full")

    monkeypatch.setattr(services.messages, "commit", commit)
    assert not take_until_done(intake, [message("ev", batch(1, alert()))], stopping)
