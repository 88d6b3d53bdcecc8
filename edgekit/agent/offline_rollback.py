"""Operations on a device's state while its agent is not running."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from edgekit.base.clock import FlooredClock
from edgekit.base.lock import lock_state
from edgekit.core.errors import EdgekitError, UsageError
from edgekit.core.spec import AGENT
from edgekit.core.wire import UpdateRecord
from edgekit.sync.carried import write_outbox
from edgekit.sync.ledger import Ledger
from edgekit.sync.outbox import Outbox
from edgekit.update.driver import Job, UpdateDriver
from edgekit.update.machine import Event
from edgekit.update.slots import Slots


class _Offline:
    """The ports of an update without an agent: only slots and outbox change."""

    def __init__(self, model: str, slots: Slots, outbox: Outbox) -> None:
        self._model, self._slots, self._outbox = model, slots, outbox
        self.driver: UpdateDriver | None = None

    def _leave(self, job: Job) -> None:
        pass  # the agent does it

    fetch = install = start_trial = commit = _leave

    def roll_back(self, job: Job) -> None:
        """Change the slots."""
        self._slots.abandon(self._model, job.version)
        assert self.driver is not None
        self.driver.handle(Event.ROLLED_BACK)

    def is_committed(self, job: Job) -> bool:
        """Return whether the job's version is active."""
        active = self._slots.load(self._model).active
        return active is not None and active.version == job.version

    def outlives_restart(self, _: Job) -> bool:
        """Return False: nothing is on trial while no agent runs."""
        return False

    def announce(self, record: UpdateRecord) -> None:
        """Queue a transition for the next connection."""
        self._outbox.put(record)


def roll_back_offline(state: Path, model: str, reason: str) -> tuple[str, str]:
    """Go back to a model's previous version; return the model and the version that runs next.

    Raises:
        UsageError: There is no such model, or no previous version.
        StorageError: An agent is running, or the state cannot be changed.
    """
    lock = lock_state(state)
    try:
        slots = Slots(state)
        name = _only(model, slots.models())
        slot = slots.load(name)
        if slot.active is None or slot.previous is None:
            raise UsageError(f"{name} has no previous version")
        clock = FlooredClock(state / "clock")
        outbox = Outbox(state / "outbox.sqlite", clock)
        try:
            ports = _Offline(name, slots, outbox)
            driver = ports.driver = UpdateDriver(name, state / "update" / f"{name}.json", ports, clock)
            driver.resume()
            if not driver.revert(slot.active.version, slot.previous.version, reason, reject=True):
                raise UsageError(
                    f"an update of {name} is under way ({driver.state.value})", hint="run the agent to end it"
                )
        finally:
            outbox.close()
        active = slots.load(name).active
        if active is None or active.version != slot.previous.version:
            raise EdgekitError(f"{name} still runs {active.version if active else 'nothing'}")
        return name, active.version
    finally:
        os.close(lock)


def _only(model: str, known: tuple[str, ...]) -> str:
    models = [name for name in known if name != AGENT]
    if model in known or (not model and len(models) == 1):
        return model or models[0]
    raise UsageError(
        f"want the name of a model, got {model!r}", hint=f"this device has: {', '.join(known) or 'none'}"
    )


def outbox_to_file(state: Path, path: Path) -> int:
    """Write the outbox of a device whose agent is not running; return the number of messages.

    Raises:
        StorageError: An agent is running, or the file cannot be written.
    """
    with _outbox_of(state) as outbox:
        return write_outbox(outbox, path)


def acknowledge(state: Path, boot: str, watermark: int) -> bool:
    """Free what the fleet has in the outbox of a device whose agent is not running; False for another boot.

    Raises:
        StorageError: An agent is running.
    """
    with _outbox_of(state) as outbox:
        return outbox.acknowledge(boot, watermark)


@contextlib.contextmanager
def _outbox_of(state: Path) -> Iterator[Outbox]:
    lock = lock_state(state)
    try:
        outbox = Outbox(state / "outbox.sqlite", FlooredClock(state / "clock"))
        try:
            yield outbox
        finally:
            outbox.close()
    finally:
        os.close(lock)


def read_ledger(state: Path, since_unix_s: int) -> list[dict[str, Any]]:
    """Return the ledger of a device whose agent is not running."""
    path = state / "ledger.sqlite"
    if not path.exists():
        return []
    ledger = Ledger(path, FlooredClock(state / "clock"))
    try:
        return [msgspec.to_builtins(entry) for entry in ledger.entries(since_unix_s)]
    finally:
        ledger.close()
