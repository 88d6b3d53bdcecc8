"""A full disk is said at once, loses nothing, and is over as soon as there is room again."""

import contextlib
import os
import shutil
import subprocess
import threading

import pytest
from fleet_kit import LocalFleet, Sender, composed, wait_until

from edgekit.core import wire
from edgekit.core.errors import ConfigError, StorageError
from edgekit_fleet.app.disk_watch import RESERVE_FILE, DiskWatch, Room, give_up_reserve, room_of
from edgekit_fleet.ingest.intake import Message, read_batch
from edgekit_fleet.store.database import Database

MB = 1 << 20


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 64 MB, for root only: others may not mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if os.getuid() or mount is None:
        pytest.skip("only root can mount a small disk")
    done = subprocess.run([mount, "-t", "tmpfs", "-o", "size=64m", "none", str(folder)], check=False)
    if done.returncode:
        pytest.skip("this machine lets nobody mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(path):
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(64 << 10))


@pytest.mark.parametrize("times", [2, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("broker", ["embedded", "mosquitto"])
def test_a_disk_that_fills_up_and_is_freed_loses_nothing_and_needs_nobody(small_disk, times, broker):
    """Under load: once it answered with its first error for ever, while every page was calm."""
    data, filler = small_disk / "fleet", small_disk / "filler"
    data.mkdir()
    with LocalFleet(data, "--broker", broker) as fleet, Sender(fleet.enroll("a"), 100_000) as sender:
        with loaded(sender):
            for _ in range(times):
                wait_until(lambda seen=sender.watermark: sender.watermark > seen, "it acknowledges", 20)
                fill(filler)
                wait_until(lambda: "Make room" in str(fleet.get("health")["problems"]), "it is said", 5)
                assert not fleet.get("health")["ok"]
                sender.connection.client._sock_close()  # it connects again while nothing can be written
                wait_until(lambda: "Make room" in page(fleet), "the page says it first", 5)
                filler.unlink()
                wait_until(lambda: fleet.get("health")["ok"], "it is well again", 10)
        sender.count = sender._next + 500  # it may have gone back to the watermark
        sender.run()
        assert fleet.get("metrics")["stored"]["events"] == sender.count
        assert fleet.fleet.broker.restarts == 0


@contextlib.contextmanager
def loaded(sender):
    """A device that sends all the time."""
    stopping = threading.Event()

    def load():
        while not stopping.wait(0.02):
            sender.step()

    thread = threading.Thread(target=load, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def page(fleet):
    """The text of the first page above its first heading's content."""
    from edgekit_fleet.store.sessions import Sessions
    from edgekit_fleet.ui import signin

    token = fleet.fleet.admin_token_file.read_text().strip()
    services = fleet.fleet.services
    link = signin.link(services.tokens, Sessions(services.database), fleet.ready["url"], token)
    fleet.client.get(link, follow_redirects=True)
    return fleet.client.get("/", follow_redirects=True).text.partition('class="tiles"')[0]


@pytest.mark.parametrize("broker", ["embedded", "mosquitto"])
def test_a_fleet_starts_on_a_full_disk_and_says_so(small_disk, broker):
    data = small_disk / "fleet"
    data.mkdir()
    with LocalFleet(data, "--broker", broker):
        assert (data / RESERVE_FILE).stat().st_size == room_of(data).reserve
    fill(small_disk / "filler")
    with LocalFleet(data, "--broker", broker) as fleet:
        assert "MiB free" in fleet.get("health")["problems"][0]
        assert not (data / RESERVE_FILE).exists()
        fleet.claim()  # what people do still works
        (small_disk / "filler").unlink()
        wait_until(lambda: fleet.get("health")["ok"], "it is well again", 10)
        assert (data / RESERVE_FILE).exists()


@pytest.mark.parametrize(
    ("total", "free", "level"),
    [
        (1000 * MB, 65 * MB, "enough"),
        (1000 * MB, 64 * MB, "low"),
        (1000 * MB, 32 * MB, "low"),
        (1000 * MB, 32 * MB - 1, "full"),
        (40 * MB, 5 * MB, "enough"),
        (40 * MB, 4 * MB, "low"),
        (40 * MB, 2 * MB - 1, "full"),
    ],
)
def test_how_much_room_is_enough(total, free, level):
    assert Room(total, free).level == level


def test_a_disk_that_stays_low_loses_its_oldest_rows_before_it_is_full(services, monkeypatch):
    alerts = [wire.Alert(mono_ns=0, unix_ms=0, level="info", code="test", message="x" * 2000)] * 200
    devices, messages = services.devices, services.messages
    devices.enroll("d", 0, None)
    for first in range(1, 4001, 200):
        body = wire.encode(wire.Batch(boot="b", seq0=first, items=alerts))
        messages.commit([read_batch(Message(wire.up("d", "ev"), body, 1), "d")])
    watch = DiskWatch(services.settings.data, services.database, messages, lambda _: None)
    low = Room(40 * MB, 3 * MB)
    monkeypatch.setattr("edgekit_fleet.app.disk_watch.room_of", lambda _: low)
    watch.look()
    watch.look()
    assert watch.trimmed == 0  # it may be over in a moment
    for _ in range(20):
        watch.look()
    assert "oldest" in watch.problem
    assert watch.trimmed > 0
    assert services.database.free_bytes() > 2 * low.floor
    assert 4000 - watch.trimmed == messages.counts()["events"] >= 1000
    assert messages.watermark("d", "b") == 4000


def test_a_reserve_is_kept_while_there_is_room(tmp_path):
    (tmp_path / RESERVE_FILE).write_bytes(b"x")
    give_up_reserve(tmp_path)
    assert (tmp_path / RESERVE_FILE).exists()


def test_a_damaged_database_is_not_called_a_full_disk(tmp_path):
    path = tmp_path / "fleet.sqlite"
    path.write_bytes(b"no database, and long enough to be read as one" * 100)
    with pytest.raises(StorageError) as caught:
        Database(path)
    assert "restore" in caught.value.hint


@pytest.mark.parametrize("how", [lambda path: path.unlink(), lambda path: path.write_bytes(b"")])
def test_a_lost_database_is_not_made_anew_unnoticed(tmp_path, how):
    """The fleet started, said that it was well, and refused every device and the administrator's token."""
    with composed(tmp_path):
        pass
    how(tmp_path / "fleet.sqlite")
    for _ in range(2):
        with pytest.raises(ConfigError, match="empty or lost") as caught:
            composed(tmp_path).__enter__()
        assert "edgekit-fleet restore" in caught.value.hint


def test_lost_keys_are_not_made_anew_unnoticed(tmp_path):
    with composed(tmp_path):
        pass
    shutil.rmtree(tmp_path / "keys")
    with pytest.raises(ConfigError, match="keys is missing"):
        composed(tmp_path).__enter__()
    (tmp_path / "keys").mkdir()
    with composed(tmp_path):
        pass
