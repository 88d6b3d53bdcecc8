"""What can be done with a device's state while its agent is down."""

from __future__ import annotations

import os

import pytest
from bundles import make_bundle

from edgekit.agent.offline_rollback import read_ledger, roll_back_offline
from edgekit.base.clock import FlooredClock
from edgekit.base.lock import lock_state
from edgekit.core.errors import StorageError, UsageError
from edgekit.core.wire import UpdateRecord, decode_record
from edgekit.model.install import install_initial
from edgekit.sync.ledger import Ledger
from edgekit.sync.outbox import Cursor, Outbox
from edgekit.update.slots import Slots


@pytest.fixture
def device(tmp_path):
    """Install versions of models as an agent would have; return their slots."""
    slots = Slots(tmp_path / "state")

    def make(*versions, model="motion"):
        for version in versions:
            made = make_bundle(tmp_path / f"{model}-{version}", version=version, model=model)
            install_initial(slots, model, made, tmp_path / "unpacked")
        return slots

    return make


def waiting(state):
    """Return the update records that the fleet hears of with the next connection."""
    outbox = Outbox(state / "outbox.sqlite", FlooredClock(state / "clock"))
    try:
        batches = [parcel.batch for parcel in outbox.batches(Cursor(0, 0), 1000)]
    finally:
        outbox.close()
    records = [decode_record(bytes(item)) for batch in batches for item in batch.items]
    return [record for record in records if isinstance(record, UpdateRecord)]


@pytest.mark.parametrize("named", ["", "motion"])
def test_the_only_model_goes_back_named_or_not_and_the_fleet_will_hear_why(device, named):
    slots = device("1.0.0", "2.0.0")
    assert roll_back_offline(slots.state_dir, named, "it is too slow") == ("motion", "1.0.0")
    slot = slots.load("motion")
    assert (slot.active.version, slot.previous.version) == ("1.0.0", "2.0.0")
    last = waiting(slots.state_dir)[-1]
    assert (last.model, last.version, last.state) == ("motion", "2.0.0", "IDLE")
    assert any("it is too slow" in record.reason for record in waiting(slots.state_dir))


def test_one_of_several_models_must_be_named_and_only_it_goes_back(device):
    slots = device("1.0.0", "2.0.0")
    device("1.0.0", "2.0.0", model="sound")
    with pytest.raises(UsageError) as caught:
        roll_back_offline(slots.state_dir, "", "why")
    assert caught.value.hint == "this device has: motion, sound"
    assert roll_back_offline(slots.state_dir, "sound", "why") == ("sound", "1.0.0")
    assert slots.load("motion").active.version == "2.0.0"


def test_an_unknown_model_and_a_device_without_any_are_told_apart(device, tmp_path):
    slots = device("1.0.0", "2.0.0")
    with pytest.raises(UsageError, match="'absent'") as caught:
        roll_back_offline(slots.state_dir, "absent", "why")
    assert caught.value.hint == "this device has: motion"
    with pytest.raises(UsageError) as caught:
        roll_back_offline(tmp_path / "empty", "", "why")
    assert caught.value.hint == "this device has: none"


def test_without_a_previous_version_nothing_changes(device):
    slots = device("1.0.0")
    with pytest.raises(UsageError, match="motion has no previous version"):
        roll_back_offline(slots.state_dir, "", "why")
    assert slots.load("motion").active.version == "1.0.0"


def test_an_agent_that_runs_after_all_keeps_its_state_to_itself(device, monkeypatch):
    monkeypatch.setattr("edgekit.base.lock._WAIT_S", 0.0)
    slots = device("1.0.0", "2.0.0")
    held = lock_state(slots.state_dir)
    with pytest.raises(StorageError, match="another agent"):
        roll_back_offline(slots.state_dir, "", "why")
    os.close(held)
    assert slots.load("motion").active.version == "2.0.0"


@pytest.mark.parametrize("model", ["", "absent"])
def test_the_state_is_free_again_after_a_failure(device, model):
    slots = device("1.0.0")
    with pytest.raises(UsageError):
        roll_back_offline(slots.state_dir, model, "why")
    os.close(lock_state(slots.state_dir))


def test_a_damaged_note_of_an_update_does_not_stop_going_back(device):
    slots = device("1.0.0", "2.0.0")
    (slots.state_dir / "update").mkdir(parents=True, exist_ok=True)
    (slots.state_dir / "update" / "motion.json").write_text("{")
    assert roll_back_offline(slots.state_dir, "", "why") == ("motion", "1.0.0")


def test_the_ledger_of_an_agent_that_is_down_is_read_from_the_hour_on(tmp_path):
    assert read_ledger(tmp_path, 0) == []
    assert not (tmp_path / "ledger.sqlite").exists(), "to look is not to write"
    clock = FlooredClock(tmp_path / "clock")
    ledger = Ledger(tmp_path / "ledger.sqlite", clock)
    ledger.add("motor", "labels", "fleet", "refused", 40, 2)
    ledger.close()
    (row,) = read_ledger(tmp_path, 0)
    assert (row["pipeline"], row["data_class"], row["decision"]) == ("motor", "labels", "refused")
    assert (row["count"], row["bytes"]) == (2, 40)
    assert read_ledger(tmp_path, row["start_unix_s"] + 7200) == []
