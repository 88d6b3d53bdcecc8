"""Events of a folder's pictures: kept before the picture counts as done, once if it is taken again."""

from __future__ import annotations

import time

import cv2
import numpy as np
from single_model import write_image_bundle
from test_supervisor import Stage

from edgekit.agent.supervisor.egress import KeptEvents
from edgekit.base.clock import FlooredClock
from edgekit.core.wire import EventRecord, decode_record
from edgekit.sync.outbox import Cursor, Outbox

PIPELINE = """
[pipeline]
name = "inbox"
model = "tiny"
[source]
kind = "folder"
uri = "in"
poll_s = 0.02
settle_s = 0.0
[events]
appear = 1
window = 1
[privacy]
egress = ["labels"]
"""


def events(state):
    outbox = Outbox(state / "outbox.sqlite", FlooredClock(state / "clock"))
    try:
        batches = [parcel.batch for parcel in outbox.batches(Cursor(0, 0), 10_000)]
    finally:
        outbox.close()
    records = [decode_record(bytes(item)) for batch in batches for item in batch.items]
    return [record for record in records if isinstance(record, EventRecord)]


def done_list(state):
    (path,) = state.rglob("folder-*.done")
    return path


def is_noted(stage):
    """Wait until a picture counts as done."""
    deadline_s = time.monotonic() + 100
    while sum(path.read_bytes().count(b"\n") for path in stage.state.rglob("folder-*.done")) < 2:
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def test_an_event_is_in_the_outbox_before_its_picture_is_done_and_once_if_it_is_taken_again(tmp_path):
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in/a.png"), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "inbox.toml").write_text(PIPELINE)
    write_image_bundle(tmp_path / "tiny")
    stage = Stage(tmp_path)
    stage.entries = f'[[pipeline]]\nfile = "inbox.toml"\nmodel = "{tmp_path / "tiny"}"\n'
    stage.run(is_noted)
    (first,) = events(stage.state)
    path = done_list(stage.state)
    begun, done = path.read_bytes().splitlines()
    assert begun == b"~" + done
    path.write_bytes(begun + b"\n")  # as if it had been killed between the outbox and the note
    stage.run(is_noted)
    assert events(stage.state) == [first]
    path.write_bytes(b"")  # forgotten: another run over the same pictures
    stage.run(is_noted)
    assert len(events(stage.state)) == 2


def test_the_reactor_gets_the_last_number_of_each_pipeline_and_is_not_waited_for():
    offered, said, has_room = [], [], True

    def offer(work):
        if has_room:
            offered.append(work)
        return has_room

    kept = KeptEvents(offer, said.append)
    has_room = False
    kept.add("a", 1)
    has_room = True
    for number in (2, 3):
        kept.add("a", number)
    kept.add("b", 7)
    (work,) = offered
    work()
    assert said == [{"a": 3, "b": 7}]
    kept.add("a", 4)
    assert len(offered) == 2
