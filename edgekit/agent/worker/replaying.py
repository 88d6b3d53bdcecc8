"""Plays a recording through a pipeline: its model, stages, tracker and events, without its source and sinks.

Every frame is run, as fast as the model can, with the times of the recording; so the outcome is the same
each time. Nothing leaves the device, and no sink is opened.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.agent.worker.opening import model_path
from edgekit.agent.worker.runner import blacked_out, choices_of, make_redactor, make_rules, open_stages
from edgekit.base.signals import stopped_by_signals
from edgekit.core.errors import ConfigError
from edgekit.core.ports import Result, Source
from edgekit.model.holder import Holder
from edgekit.pipeline.config import PipelineConfig
from edgekit.pipeline.differences import Seen
from edgekit.pipeline.loop import Loop
from edgekit.pipeline.predictor import Predictor
from edgekit.pipeline.redact import check_redact
from edgekit.pipeline.sinks.document import event_documents
from edgekit.pipeline.sources import SourceContext, make_source
from edgekit.pipeline.sources.video import VideoOptions


@dataclass
class Played:
    """What a pipeline made of a recording: its summary, and what it saw by the number of the frame.

    ``signal`` is the one that ended it early, or 0.
    """

    document: dict[str, Any]
    seen: dict[int, Seen] = field(default_factory=dict)
    signal: int = 0


class _Keeper:
    """A sink that keeps what was found, and no pixels."""

    def __init__(self) -> None:
        self.seen: dict[int, Seen] = {}

    def write(self, result: Result) -> None:
        frame = result.frame
        prediction = msgspec.structs.replace(result.prediction, tensors={})
        events = event_documents(result) if result.events else ()
        self.seen[frame.seq] = Seen(frame.seq, frame.meta["media_s"], prediction, events)

    def close(self) -> None:
        pass


def play(
    config: PipelineConfig,
    video: Path,
    frames: int,
    watch: Callable[[Loop], contextlib.AbstractContextManager[object]] | None = None,
) -> Played:
    """Run a pipeline on the first ``frames`` of a video in place of its source; no sink is opened.

    Args:
        config: The pipeline. Its ``[budget]`` is not kept: every frame is run.
        video: The recording's file.
        frames: The most frames to run.
        watch: A context manager around the running loop, to show its progress.

    Raises:
        ConfigError: The model takes no pictures, or the pipeline's tables do not fit it.
        SourceError: The video cannot be decoded.
        EdgekitError: A model cannot be opened, or a frame failed.
    """
    keeper = _Keeper()
    with contextlib.ExitStack() as stack:
        holder = Holder(model_path(config), choices_of(config), fallback=config.fallback)
        stack.callback(holder.close)
        predictor = holder.ready.predictor
        _require_pictures(predictor)
        graph = None
        if (stages := open_stages(config)) is not None:
            graph = stack.enter_context(contextlib.closing(stages)).graph()
        check_redact(config.privacy.redact, predictor, () if graph is None else graph.labels())
        # a frame that failed would be a difference
        rules = make_rules(config, predictor, graph, max_errors=1)
        source = blacked_out(_source(video), config, predictor)
        loop = Loop(config.pipeline.name, source, predictor, (keeper,), rules=rules)
        with stopped_by_signals(loop.stop) as received, watch(loop) if watch else contextlib.nullcontext():
            document = loop.run(frames=frames)
    return Played(document, keeper.seen, received[0] if received else 0)


def _require_pictures(predictor: Predictor) -> None:
    predictor.require_frames()
    manifest = predictor.manifest
    if manifest.pre.window or manifest.pre.columns:
        raise ConfigError(
            f"{manifest.model} {manifest.version} takes no pictures, and a recording has nothing else",
            hint="a recorded table or sound is the [source] of a pipeline: edgekit run",
        )


def _source(video: Path) -> Source:
    return make_source("video", VideoOptions(uri=str(video.resolve())), SourceContext())


def picture_at(video: Path, seq: int, runs: list[tuple[PipelineConfig, dict[int, Seen]]]) -> NDArray[Any]:
    """Return a frame of a recording, with everything hidden that one of the pipelines hides.

    Args:
        video: The recording's file.
        seq: The frame's number, from 0.
        runs: The pipelines and what they saw; each looked at this frame.

    Returns:
        The picture, (height, width, 3), uint8, BGR.
    """
    with _frames(video) as source:
        for _ in range(seq):
            source.read()
        frame = source.read()
    assert frame is not None  # it was decoded before
    pixels: NDArray[Any] = frame.data
    before = np.zeros_like(pixels)
    for config, seen in runs:
        if config.blackouts:
            from edgekit.pipeline.blackout import paint

            paint(pixels, [table.polygon for table in config.blackouts])
        if (redactor := make_redactor(config)) is not None:
            for number in sorted(number for number in seen if number < seq):  # what they had stays hidden
                redactor.apply(before, seen[number].prediction)
            redactor.apply(pixels, seen[seq].prediction)
    return pixels


@contextlib.contextmanager
def _frames(video: Path) -> Iterator[Source]:
    source = _source(video)
    source.open()
    try:
        yield source
    finally:
        source.close()
