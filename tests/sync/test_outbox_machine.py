"""The outbox against a model of the fleet, over a link that drops, repeats and reorders."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from conftest_sync import FakeClock, memory_folder
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edgekit.core import wire
from edgekit.sync.outbox import Cursor, Outbox, Quota

QUOTA = Quota(rows=12)


class OutboxMachine(RuleBasedStateMachine):
    """What the fleet holds must be exactly what was put, but for what the outbox says it dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=memory_folder()))
        self.clock = FakeClock()
        self.number = 0
        self.put: dict[int, int] = {}  # number of an event -> priority
        self.frames = 0
        self.sent: list[bytes] = []
        self.fleet: dict[int, wire.Record] = {}
        self.passed: set[int] = set()
        self.dropped_before = 0
        self.open()

    def open(self) -> None:
        self.box = Outbox(self.folder / "o", self.clock, QUOTA, commit_delay_s=0)
        self.cursor = Cursor(self.box.watermark, self.box.watermark)

    @rule(priority=st.integers(0, 5))
    def put_event(self, priority: int) -> None:
        self.number += 1
        self.put[self.number] = priority
        self.box.put(
            wire.EventRecord(
                mono_ns=0, unix_ms=0, pipeline="p", model="m", version="1.0.0", kind="k",
                label=str(self.number),
            ),
            priority,
        )  # fmt: skip

    @rule(pipeline=st.sampled_from("ab"), count=st.integers(1, 9))
    def put_metrics(self, pipeline: str, count: int) -> None:
        for _ in range(count):
            self.frames += 1
            self.box.put(
                wire.MetricReport(
                    mono_ns=0, unix_ms=0, pipeline=pipeline, model="m", version="1.0.0", variant="v",
                    period_s=1.0, frames=1,
                )
            )  # fmt: skip

    @rule(limit=st.integers(1, 4))
    def send(self, limit: int) -> None:
        for parcel in self.box.batches(self.cursor, limit):
            self.sent.append(wire.encode(parcel.batch))
            self.cursor = (
                Cursor(parcel.last, self.cursor.m)
                if parcel.leaf == "ev"
                else Cursor(self.cursor.ev, parcel.last)
            )

    @rule()
    def go_back(self) -> None:
        self.cursor = Cursor(self.box.watermark, self.box.watermark)

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), keep=st.booleans())
    def arrive(self, data: st.DataObject, *, keep: bool) -> None:
        """Any message that was sent arrives, in any order, once or more often."""
        index = data.draw(st.integers(0, len(self.sent) - 1))
        batch = wire.decode(self.sent[index], wire.Batch)
        if not keep:
            self.sent.pop(index)
        self.take(batch)

    def take(self, batch: wire.Batch) -> None:
        """As the fleet does: a gap's range counts even where the number it stands in is known."""
        for seq, item in enumerate(batch.items, batch.seq0):
            if seq not in self.passed:
                self.fleet[seq] = item
            self.passed |= set(range(item.first, item.last + 1)) if isinstance(item, wire.Gap) else {seq}

    @rule()
    def lose_everything_in_flight(self) -> None:
        self.sent.clear()

    @rule(back=st.integers(0, 3))
    def acknowledge(self, back: int) -> None:
        watermark = 0
        while watermark + 1 in self.passed:
            watermark += 1
        self.box.acknowledge(self.box.boot, max(0, watermark - back))

    @rule(clean=st.booleans())
    def restart(self, *, clean: bool) -> None:
        self.dropped_before += self.box.counters["dropped"]
        if clean:
            self.box.close()
        else:  # as after kill -9: the file as it lies on disk, the process gone
            copy = self.folder.with_name(self.folder.name + "x")
            shutil.copytree(self.folder, copy, dirs_exist_ok=True)
            self.box.close()
            shutil.rmtree(self.folder)
            copy.rename(self.folder)
        self.open()

    @invariant()
    def within_quota(self) -> None:
        assert self.box.state().rows <= QUOTA.rows

    def teardown(self) -> None:
        """Let the link heal: everything must arrive, and nothing twice."""
        for _ in range(200):
            self.go_back()
            self.send(10_000)
            while self.sent:
                self.take(wire.decode(self.sent.pop(), wire.Batch))
            self.acknowledge(0)
            if self.box.state().rows == 0:
                break
        assert self.box.state().rows == 0
        assert self.passed == set(range(1, self.box.last_seq + 1))
        self.check_contents()
        self.box.close()
        shutil.rmtree(self.folder)

    def check_contents(self) -> None:
        labels = [int(r.label) for r in self.fleet.values() if isinstance(r, wire.EventRecord)]
        frames = sum(r.frames for r in self.fleet.values() if isinstance(r, wire.MetricReport))
        dropped = self.dropped_before + self.box.counters["dropped"]
        assert len(labels) == len(set(labels))
        assert frames <= self.frames, "a report was counted twice"
        missing = len(self.put) - len(labels)
        assert missing <= dropped
        if dropped == 0:
            assert frames == self.frames


OutboxMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestOutboxMachine = OutboxMachine.TestCase
