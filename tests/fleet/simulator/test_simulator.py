"""Simulated devices speak the real protocol to a real fleet, and lose nothing whatever the weather is."""

import contextlib
import sqlite3

import pytest
from fleet_kit import LocalFleet
from hypothesis import given
from hypothesis import strategies as st

from edgekit.core import wire
from edgekit.core.errors import ProtocolError, UsageError
from edgekit_fleet.cli import simulate as command
from edgekit_fleet.cli.main import main
from edgekit_fleet.registry.remote import FleetClient
from edgekit_fleet.simulator import mqtt
from edgekit_fleet.simulator.outbox import MAX_ITEMS, MAX_WAIT_S, WINDOW, Outbox
from edgekit_fleet.simulator.run import simulate
from edgekit_fleet.simulator.weather import Plan, weather_of


def alert(text="x"):
    return wire.Alert(mono_ns=0, unix_ms=0, level="info", code="test", message=text)


def numbers_of(batches):
    decoded = [wire.decode(payload, wire.Batch) for _, payload in batches]
    return [(batch.seq0, len(batch.items)) for batch in decoded]


def test_devices_in_bad_weather_lose_nothing_counted_by_sequence(tmp_path):
    with LocalFleet(tmp_path) as fleet:
        token = fleet.fleet.admin_token_file.read_text().strip()
        client = FleetClient(fleet.ready["url"], token, None)
        with contextlib.suppress(FileExistsError):
            main(
                [
                    "keys",
                    "init",
                    "--keys",
                    str(tmp_path / "publisher"),
                    "--fleet",
                    client.url,
                    "--token",
                    token,
                ]
            )
        identities = command.enrol(client, tmp_path / "kept", "sim-", 12)
        again = command.enrol(client, tmp_path / "kept", "sim-", 12)
        assert again == identities  # nobody enrols twice
        plan = Plan(
            seconds=3,
            connect_s=0.5,
            report_s=0.2,
            event_s=0.3,
            flapping=0.3,
            flap_s=0.5,
            storm_s=1,
            bad_clocks=0.5,
        )
        outcome = simulate(identities, plan)
        assert outcome.document["unacknowledged"] == 0
        assert outcome.document["refused"] == {}
        assert outcome.document["connections"] > 24
        assert outcome.document["records"] > 120
        with contextlib.closing(sqlite3.connect(tmp_path / "fleet.sqlite")) as sql:
            counted = (
                "SELECT o.device, (SELECT count(*) FROM metric m WHERE m.outbox = o.id)"
                " + (SELECT count(*) FROM event e WHERE e.outbox = o.id) FROM outbox o WHERE boot = ?"
            )
            stored = dict(sql.execute(counted, (outcome.boot,)).fetchall())
    assert stored == {device: last for device, (last, _) in outcome.sent.items()}


def test_the_same_seed_is_the_same_weather():
    plan = Plan(seed=7, flapping=0.5, bad_clocks=0.5)

    def drawn(seed):
        weathers = [weather_of(Plan(**{**vars(plan), "seed": seed}), number) for number in range(50)]
        return [
            (w.is_flapping, w.clock_off_ms, w.first_connect_s(), w.event_s(), w.flap_s()) for w in weathers
        ]

    assert drawn(7) == drawn(7)
    assert drawn(7) != drawn(8)
    assert {clock for _, clock, *_ in drawn(7)} == {0, None, 365 * 86_400_000, -365 * 86_400_000}


def test_an_outbox_sends_each_record_once_while_acknowledgements_come():
    outbox = Outbox("b")
    for _ in range(120):
        outbox.put(alert())
    assert numbers_of(outbox.batches(1.0)) == [(1, MAX_ITEMS), (51, MAX_ITEMS), (101, 20)]
    assert outbox.batches(1.1) == []
    assert outbox.acknowledged(wire.Ack("b", 120), 2.0) == [1.0] * 120
    assert outbox.repeated == 0


def test_an_outbox_that_stalls_repeats_one_batch_and_waits_longer_each_time():
    outbox = Outbox("b")
    for _ in range(2 * MAX_ITEMS):
        outbox.put(alert())
    outbox.batches(1.0)
    now_s, waits = 1.0, []
    while len(waits) < 8:
        waits.append(outbox.wait_s)
        now_s += outbox.wait_s + 0.001
        assert numbers_of(outbox.batches(now_s)) == [(1, 1)]
    assert waits == [3.0, 6.0, 12.0, 24.0, 48.0, 96.0, MAX_WAIT_S, MAX_WAIT_S]
    assert outbox.acknowledged(wire.Ack("b", 100), now_s)  # those that were sent once
    assert outbox.wait_s == 3.0


def test_an_outbox_that_had_nothing_to_send_for_long_sends_once():
    outbox = Outbox("b")
    outbox.put(alert())
    outbox.batches(1.0)
    outbox.acknowledged(wire.Ack("b", 1), 1.1)
    outbox.put(alert())
    assert numbers_of(outbox.batches(60.0)) == [(2, 1)]
    assert not outbox.is_stalled(61.0)
    assert outbox.is_stalled(63.1)


def test_a_new_connection_sends_all_above_the_watermark_again_within_the_window():
    outbox = Outbox("b")
    for _ in range(2 * WINDOW * MAX_ITEMS):
        outbox.put(alert())
    outbox.batches(1.0)
    outbox.acknowledged(wire.Ack("b", 70), 2.0)
    outbox.reconnected(3.0)
    batches = numbers_of(outbox.batches(3.0))
    assert batches[0] == (71, MAX_ITEMS)
    assert len(batches) == WINDOW
    assert outbox.acknowledged(wire.Ack("other", 80), 3.0) == []
    assert outbox.acknowledged(wire.Ack("b", 1 << 40), 3.0) == []


@given(st.lists(st.binary(max_size=400), max_size=5), st.integers(1, 50))
def test_packets_are_found_however_the_stream_is_cut(payloads, piece):
    stream = b"".join(mqtt.publish("a/b", payload, 0) for payload in payloads)
    reader, found = mqtt.Reader(), []
    for start in range(0, len(stream), piece):
        found += [packet.publication() for packet in reader.feed(stream[start : start + piece])]
    assert found == [("a/b", payload) for payload in payloads]


@pytest.mark.parametrize("stream", [b"\x30\xff\xff\xff\xff", b"\x30\xff\xff\xff\x7f"])
def test_an_endless_packet_is_refused(stream):
    with pytest.raises(ProtocolError):
        list(mqtt.Reader().feed(stream))


@pytest.mark.parametrize("option", [["--report-s", "0"], ["--flapping", "2"], ["--devices", "0"]])
def test_a_number_out_of_range_is_refused(option, capsys):
    assert main(["simulate", "--devices", "1", "--data", "/nowhere", *option]) == UsageError.exit_code
    assert option[0] in capsys.readouterr().err
