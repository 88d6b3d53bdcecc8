"""Results and events as the loop hands them to sinks."""

import time

import numpy as np
from pipeline_fakes import prediction

from edgekit.core.ports import Frame, Result
from edgekit.core.spec import Item
from edgekit.pipeline.events import Event

BOX = (10.0, 20.0, 40.0, 50.0)
CAR = Item(label="car", score=0.9, box=BOX, value=1.0)


def event(**fields):
    return Event(
        **{
            "id": "e1",
            "kind": "appeared",
            "label": "car",
            "seq": 3,
            "captured_ns": 0,
            "captured_unix_ms": 7,
            **fields,
        }
    )


def result(events=(), found=None, data=None, seq=3, unix_ms=7):
    pixels = np.full((60, 80, 3), 50, np.uint8) if data is None else data
    return Result(
        pipeline="door",
        frame=Frame(pixels, seq, time.monotonic_ns(), unix_ms),
        prediction=found or prediction("detect", "car", box=BOX),
        events=tuple(events),
        model="m",
        version="1.0.0",
        variant="v",
        stage_ms={"infer": 1.23456},
    )
