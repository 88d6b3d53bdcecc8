"""A pull from the broker is one transaction, whatever it holds; the world hears of it after the commit."""

import contextlib
import threading

import pytest

from edgekit.core import wire
from edgekit.core.errors import StorageError
from edgekit_fleet.broker.strangers import Strangers
from edgekit_fleet.ingest.intake import Intake, Message

NOW_MS = 1_790_000_000_000
DEVICES = 256


class Down:
    """Remembers what was sent down, and between which statements of the database."""

    def __init__(self, log):
        self.log = log
        self.acks = {}

    def publish(self, device, leaf, body, *, retain=False):
        self.log.append(f"down {leaf}")
        if leaf == "ack":
            ack = wire.decode(body, wire.Ack)
            self.acks[device, ack.boot] = ack.watermark


@pytest.fixture
def log():
    """What happened, in order: SQL statements of this thread, messages down, calls of hooks."""
    return []


@pytest.fixture
def traced(services, log):
    """A composed fleet with 256 devices; statements are logged as SQLite runs them."""
    services.downlink = Down(log)
    with services.database.transaction() as sql:
        for number in range(DEVICES):
            services.devices.enroll(f"d{number}", NOW_MS, None)
    own = threading.get_ident()

    def trace(statement):
        if threading.get_ident() == own:  # rollouts and jobs write on threads of their own
            log.append(statement)

    with services.database.transaction() as sql:
        sql.set_trace_callback(trace)
    log.clear()
    yield services
    with services.database.transaction() as sql:
        sql.set_trace_callback(None)


@pytest.fixture
def intake(traced):
    return Intake(traced, lambda: NOW_MS, Strangers())


def message(device, leaf, body):
    return Message(wire.up(device, leaf), wire.encode(body), NOW_MS)


def records(kind):
    moment = {"mono_ns": 0, "unix_ms": NOW_MS}
    if kind == "m":
        report = {"pipeline": "p", "model": "m", "version": "1.0.0", "variant": "v"}
        return [wire.MetricReport(**moment, **report, period_s=10.0, frames=100)]
    return [wire.Alert(**moment, level="info", code="test", message="x")]


def batch(seq0, *items):
    return wire.Batch(boot="b", seq0=seq0, items=list(items))


def mixed(number):
    """One message of device ``number``: metrics, events, births, wills, reported states in turn."""
    device = f"d{number}"
    leaf = ("m", "ev", "state", "reported", "answer")[number % 5]
    if leaf == "state":
        return message(device, leaf, wire.Birth(online=number % 2 == 0, boot="b", conn=1))
    if leaf == "reported":
        models = {"m": wire.ModelState(active="1.0.0")}
        return message(device, leaf, wire.Reported("b", 1, 0, models=models))
    if leaf == "answer":
        answer = wire.CommandAnswer(mono_ns=0, unix_ms=NOW_MS, id=f"{number:016x}", ok=True)
        return message(device, "ev", batch(1, answer))
    return message(device, leaf, batch(1, *records(leaf)))


def commits(log):
    return log.count("COMMIT")


def test_256_messages_of_256_devices_are_one_commit(traced, intake, log):
    intake.take([mixed(number) for number in range(DEVICES)])
    assert commits(log) == 1
    assert traced.messages.counts() == {"metrics": 52, "events": 102, "refused": 0}
    assert [traced.devices.get(f"d{number}").seen_ms for number in range(4)] == [NOW_MS] * 4


def test_a_pull_of_256_messages_takes_as_many_statements_as_one_of_16(traced, intake, log):
    """At each, Python's module gives the interpreter up, and waits behind every page that is rendered."""

    def pull(seq0, count):
        reports = [message(f"d{n}", "m", batch(seq0, *records("m"))) for n in range(count)]
        return reports + [message(f"d{n}", "ev", batch(seq0 + 1, *records("ev"))) for n in range(count)]

    intake.take(pull(1, DEVICES))  # adds the outboxes
    taken = []
    for seq0, count in ((3, 16), (5, DEVICES)):
        log.clear()
        intake.take(pull(seq0, count))
        taken.append(len([entry for entry in log if not entry.startswith("down")]))
    assert taken[0] == taken[1] < 16


def test_messages_that_are_refused_are_in_the_same_commit(traced, intake, log):
    intake.take([message("stranger", "ev", batch(1, *records("ev"))), mixed(0), mixed(2)])
    assert commits(log) == 1
    assert len(traced.messages.refused()) == 1


def test_hooks_and_answers_come_after_the_commit(traced, intake, log):
    hooks = traced.hooks
    for name in ("on_state", "on_reported", "on_committed"):
        getattr(hooks, name).append(lambda *_, name=name: log.append(name))
    hooks.requests["time"] = lambda *_: log.append("time")
    request = message("d9", "req", wire.Request(1, "time"))
    intake.take([request, *(mixed(number) for number in range(5))])
    after = log[log.index("COMMIT") + 1 :]
    assert {"on_state", "on_reported", "on_committed", "time", "down ack"} <= set(after)
    assert not {"on_state", "on_reported", "on_committed", "time", "down ack"} & set(log[: -len(after)])


def test_the_bus_hears_after_the_commit(traced, intake, log, monkeypatch):
    monkeypatch.setattr(traced.bus, "publish", lambda topic, _data: log.append(f"bus {topic}"))
    intake.take([mixed(number) for number in range(5)])
    heard = [entry for entry in log if entry.startswith("bus")]
    assert {"bus device", "bus event", "bus command"} <= set(heard)
    assert all(log.index(entry) > log.index("COMMIT") for entry in heard)


def test_each_outbox_is_acknowledged_once_a_pull(traced, intake, log):
    birth = message("d0", "state", wire.Birth(online=True, boot="b", conn=1))
    second = message("d0", "ev", batch(2, *records("ev")))
    intake.take([birth, mixed(0), second, birth])
    assert log.count("down ack") == 1
    assert traced.downlink.acks == {("d0", "b"): 2}


def test_a_commit_that_fails_leaves_nothing_and_tells_nobody(traced, intake, log):
    """Births and reported states too: half a pull must not stay behind."""
    with traced.database.transaction() as sql:
        sql.execute("CREATE TRIGGER no_room BEFORE INSERT ON event BEGIN SELECT load_extension('none'); END")
    log.clear()
    with pytest.raises(StorageError):
        intake.take([mixed(number) for number in range(5)])
    assert commits(log) == 0
    assert not [entry for entry in log if entry.startswith("down")]
    assert not traced.devices.get("d2").online
    assert traced.devices.reported("d3") is None
    with traced.database.transaction() as sql:
        sql.execute("DROP TRIGGER no_room")
    intake.take([mixed(number) for number in range(5)])
    assert traced.devices.get("d2").online
    assert intake.counters["messages"] == 5


@pytest.mark.parametrize("failing", ["state", "reported", "m", "ev"])
def test_a_message_that_cannot_be_stored_does_not_lose_the_others(traced, intake, log, failing):
    """A rule of the database that one device breaks stands for whatever nobody thought of."""
    number = {"m": 0, "ev": 1, "state": 2, "reported": 3}[failing]
    table, column, when = {
        "m": ("metric", "device", "INSERT"),
        "ev": ("event", "device", "INSERT"),
        "state": ("device", "id", "UPDATE"),
        "reported": ("device_model", "device", "INSERT"),
    }[failing]
    with traced.database.transaction() as sql:
        sql.execute(
            f"CREATE TRIGGER broken BEFORE {when} ON {table} WHEN new.{column} = 'd{number}'"
            f"{' AND new.online' if failing == 'state' else ''}"
            " BEGIN SELECT RAISE(ABORT, 'broken'); END"
        )
    log.clear()
    intake.take([mixed(n) for n in range(10)])
    assert commits(log) == 1
    (refused,) = traced.messages.refused()
    assert refused.device == f"d{number}"
    assert "broken" in refused.reason
    assert traced.messages.counts()["metrics"] == (1 if failing == "m" else 2)
    assert traced.messages.counts()["events"] == (3 if failing == "ev" else 4)
    for other in {3, 8} - {number}:
        assert traced.devices.reported(f"d{other}").version == 1
    assert (traced.devices.reported("d3") is None) == (failing == "reported")


def test_an_answer_to_a_command_is_recorded_in_the_commit_of_its_message(traced, intake, log):
    """Were it a commit of its own, a kill between the two would let the command expire unanswered."""
    row = traced.commanding.command("d1", "rollback", {"model": "m"})
    log.clear()
    answer = wire.CommandAnswer(mono_ns=0, unix_ms=NOW_MS, id=row.id, ok=True)
    states = []
    traced.hooks.on_committed.insert(
        0, lambda device, _: states.append(traced.commanding.of_device(device)[0].state)
    )
    intake.take([message("d1", "ev", batch(1, answer))])
    assert commits(log) == 1
    assert states == ["done"]


def test_a_hook_that_fails_inside_the_commit_undoes_only_its_own_writing(traced, intake, log):
    def fail(device, _records):
        with traced.database.transaction() as sql:
            sql.execute("UPDATE device SET profile = 'half' WHERE id = ?", (device,))
        raise KeyError("a bug")

    traced.hooks.in_commit.append((wire.CommandAnswer, fail))
    intake.take([mixed(9), mixed(4)])
    assert commits(log) == 1
    assert intake.counters["hook_failures"] == 2
    assert traced.devices.get("d4").profile == ""
    assert traced.downlink.acks == {("d9", "b"): 1, ("d4", "b"): 1}


def test_a_full_disk_inside_a_hook_fails_the_whole_pull(traced, intake, log):
    """A hook is not at fault for the disk; what its message asked for must not be lost."""

    def full(_device, _records):
        raise StorageError("the disk is full")

    traced.hooks.in_commit.append((wire.Alert, full))
    with pytest.raises(StorageError):
        intake.take([mixed(1)])
    traced.hooks.in_commit.pop()
    assert traced.messages.counts()["events"] == 0
    assert commits(log) == 0


def test_a_part_of_a_transaction_can_fail_alone(services):
    database = services.database
    with database.transaction() as sql:
        sql.execute("CREATE TABLE shelf (title TEXT)")
        with contextlib.suppress(KeyError), database.savepoint() as part:
            part.execute("INSERT INTO shelf VALUES ('lost')")
            raise KeyError
        with database.savepoint() as part:
            part.execute("INSERT INTO shelf VALUES ('kept')")
    with database.read() as sql:
        assert [row["title"] for row in sql.execute("SELECT title FROM shelf")] == ["kept"]
