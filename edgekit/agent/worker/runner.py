"""Builds a pipeline from its configuration (model, source, sinks) and runs it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.agent.worker.opening import model_path, table_choices
from edgekit.base.lane import Lane
from edgekit.base.paths import state_dir
from edgekit.base.signals import stopped_by_signals
from edgekit.core.errors import ConfigError, EdgekitError, UsageError
from edgekit.core.ports import Result, Sink, Source, Updates
from edgekit.hardware.sensors import Sensors
from edgekit.model.doctor import facts_with_proofs
from edgekit.model.holder import Holder
from edgekit.model.ready import Choices, ReadyModel
from edgekit.pipeline.budget_keeper import Keeper
from edgekit.pipeline.config import PipelineConfig, Section, load_config
from edgekit.pipeline.finisher import Watch
from edgekit.pipeline.loop import Loop, Rules
from edgekit.pipeline.pre import vision
from edgekit.pipeline.predictor import Predictor
from edgekit.pipeline.redact import Redactor, check_redact
from edgekit.pipeline.sinks import Connect, Direct, Post, SinkContext, make_sink
from edgekit.pipeline.sources import make_source, source_context
from edgekit.pipeline.switch import Switch

if TYPE_CHECKING:  # a worker without stages has the memory
    from edgekit.agent.worker.stage_models import StageModels
    from edgekit.agent.worker.viewing import PageOptions
    from edgekit.pipeline.stages.graph import Graph
    from edgekit.sync.gate import Books

logger = logging.getLogger(__name__)

RECORDED = ("results.jsonl", "video.mp4", "summary.json")
"""The files of ``--record``."""
Failover = Callable[[Predictor, EdgekitError], Predictor]


@dataclass(frozen=True)
class Ran:
    """How a run ended: its summary (``edgekit run --json``), and the signal that ended it, or 0."""

    document: dict[str, Any]
    signal: int = 0


def choices_of(config: PipelineConfig, variant: str | None = None) -> Choices:
    """Return the choices that a pipeline makes for opening its model, or ``variant`` of it."""
    low_score = None if config.track is None else config.track.low_score
    batch = config.stages[0].batch if config.stages else 0
    return table_choices(config, config.model, variant, batch, low_score)


def make_loop(
    config: PipelineConfig,
    predictor: Predictor,
    *,
    sinks: Sequence[Sink] = (),
    failover: Failover | None = None,
    recheck: Callable[[Predictor, int], bool] | None = None,
    lane: Lane | None = None,
    max_errors: int = 30,
    keeper: Keeper | None = None,
    connect: Connect | None = None,
    post: Post | None = None,
    direct: Direct | None = None,
    updates: Updates | None = None,
    callback: Callable[[Result], object] | None = None,
    record: Path | None = None,
    graph: Graph | None = None,
    viewer: Sink | None = None,
    switch: Switch | None = None,
) -> Loop:
    """Return a pipeline's loop; the source is opened when it runs.

    Args:
        config: The pipeline.
        predictor: Its model, loaded; its owner closes it.
        sinks: Sinks that are written before the configured ones. With these, an ``mqtt`` sink without a
            ``url`` is left out: it means the agent's own link, which they use.
        failover: See ``Loop``.
        recheck: See ``Loop``.
        lane: See ``Loop``.
        max_errors: How many frames in a row may fail.
        keeper: Keeps the ``[budget]`` of a live source.
        connect: Connects to a broker, through the gate.
        post: Gives the way to a web server, through the gate.
        direct: Gives a sink with a protocol of its own the gate.
        updates: Of the model, in an agent that keeps it up to date.
        callback: For a ``callback`` sink that names no function.
        record: A folder for ``results.jsonl``, and for ``video.mp4`` if frames are images.
        graph: The stages after the first; the loop leaves their lanes at its end.
        viewer: The page's sink, which is written last.
        switch: The pipeline's; by default one of the loop's own.

    Raises:
        TensorError: The model does not take frames.
        ConfigError: A source or sink cannot be made, the model has no class for a label to redact, or the
            frames' resolution cannot be changed.
        StorageError: A sink's file cannot be written.
    """
    predictor.require_frames()
    takes_images = not (predictor.manifest.pre.window or predictor.manifest.pre.columns)
    if takes_images:
        vision().setNumThreads(1)  # OpenCV's own threads would compete with the runtime's
    name, folder, privacy = config.pipeline.name, Path(config.folder), config.privacy
    check_redact(privacy.redact, predictor, () if graph is None else graph.labels())
    state = state_dir() / "pipelines" / name
    source = make_source(
        config.source.kind, config.source.options, source_context(predictor.manifest, folder, state)
    )
    source = blacked_out(source, config, predictor)
    context = SinkContext(
        pipeline=name,
        folder=folder,
        state=state,
        egress=privacy.egress,
        switch=switch or make_switch(config),
        source_fps=lambda: float(getattr(source, "fps", 0.0) or getattr(config.source.options, "fps", 0.0)),
        connect=connect,
        post=post,
        direct=direct,
        updates=updates,
        callback=callback,
        packets=getattr(source, "packets", None),
        hides=bool(privacy.redact),
        is_live=lambda: source.is_live,
        zones=config.zones,
        lines=config.lines,
    )
    sections = [section for section in config.sinks if not (sinks and _is_own_link(section))]
    if record is not None:
        sections += _recording(record, takes_images=takes_images)
    keeper = _usable(keeper, config, source, sections, takes_images=takes_images)
    rules = make_rules(config, predictor, graph, max_errors, keeper)
    rules.switch = context.switch
    _check_own_source(source, sections, context)
    opened = (*sinks, *open_sinks(sections, context), *([viewer] if viewer else ()))
    return Loop(name, source, predictor, opened, rules=rules, failover=failover, recheck=recheck, lane=lane)


def make_switch(
    config: PipelineConfig, retune: Callable[[float], object] = lambda _threshold: None
) -> Switch:
    """Return a pipeline's switch as it was left; ``retune`` as for ``Switch``."""
    path = state_dir() / "pipelines" / config.pipeline.name / "switch.json"
    return Switch(path, config.profiles, retune)


def blacked_out(source: Source, config: PipelineConfig, predictor: Predictor) -> Source:
    """Return the source; with ``[[blackout]]``, one whose pictures are painted over as they are read.

    Raises:
        ConfigError: There are areas to paint, and the model takes no pictures.
    """
    if not config.blackouts:
        return source
    from edgekit.pipeline.blackout import BlackedOut  # a worker without it has the memory

    manifest = predictor.manifest
    if manifest.pre.window or manifest.pre.columns:
        raise ConfigError(
            f"blackout: want a model of pictures, got {manifest.model} {manifest.version}",
            hint="take [[blackout]] out",
        )
    return BlackedOut(source, config.blackouts)


def _is_own_link(section: Section) -> bool:
    return section.kind == "mqtt" and not section.options.url


def make_rules(
    config: PipelineConfig,
    predictor: Predictor,
    graph: Graph | None,
    max_errors: int,
    keeper: Keeper | None = None,
) -> Rules:
    """Return what a pipeline's loop does beside running the model; arguments as for ``make_loop``.

    Raises:
        ConfigError: The model finds no boxes for ``[track]``.
    """
    rules = Rules(
        debounce=config.events,
        redactor=make_redactor(config),
        watch=make_watch(config, predictor),
        graph=graph,
        max_errors=max_errors,
        keeper=keeper,
    )
    if config.stages:
        from edgekit.pipeline.stages.first import First  # a worker without stages has the memory

        rules.first = First(config.stages[0])
    if config.budget.p95_ms:
        rules.allowance_s = config.budget.p95_ms / 1e3
    return rules


def make_redactor(config: PipelineConfig) -> Redactor | None:
    """Return what hides the labels of ``[privacy] redact``; None without any."""
    privacy = config.privacy
    if not privacy.redact:
        return None
    # what a stage found stays hidden until it looks again
    hold = max((privacy.redact_hold, *(stage.every for stage in config.stages)))
    return Redactor(privacy.redact, privacy.redact_style, privacy.redact_margin_ratio, hold)


def open_stages(config: PipelineConfig) -> StageModels | None:
    """Return the open models of the stages after the first; None for a pipeline of one model.

    Raises:
        EdgekitError: A model cannot be opened.
    """
    if not config.stages:
        return None
    from edgekit.agent.worker.stage_models import StageModels  # a worker without stages has the memory

    return StageModels(config)


def make_watch(config: PipelineConfig, predictor: Predictor) -> Watch | None:
    """Return what follows the objects of a pipeline with ``[track]``, else None.

    Raises:
        ConfigError: The model finds no boxes.
    """
    if config.track is None:
        return None
    from edgekit.pipeline.tracking.watcher import Watcher, check_track  # a worker without it has the memory

    check_track(predictor.manifest)
    return Watcher(
        config.track,
        config.zones,
        config.lines,
        config.events,
        threshold=config.model.score_threshold,
        new_id=lambda: os.urandom(8).hex(),
    )


def make_keeper(
    config: PipelineConfig,
    change_variant: Callable[[int], object],
    on_change: Callable[[str, bool], object] = lambda _text, _is_down: None,
    sysfs_root: Path = Path("/"),
) -> Keeper | None:
    """Return what keeps a pipeline's ``[budget]``, see ``Keeper``; None without a limit."""
    table = config.budget
    if not table.is_limited:
        return None
    if not (table.max_temperature_c or table.max_power_w):
        return Keeper(table, change_variant, on_change=on_change)
    _, chosen = facts_with_proofs(Path("/"))
    return Keeper(table, change_variant, Sensors(sysfs_root, chosen.profile.telemetry).read, on_change)


def _usable(
    keeper: Keeper | None,
    config: PipelineConfig,
    source: Source,
    sinks: Sequence[Section],
    *,
    takes_images: bool,
) -> Keeper | None:
    """Return the keeper of a live source's budget, else None, which the log says; raises as the next one."""
    if keeper is not None and "resolution" in config.budget.order:
        _check_resolution(source, sinks, takes_images=takes_images)
    if keeper is not None and not source.is_live:
        logger.warning("the budget is not kept: the source %r waits for its reader", config.source.kind)
        return None
    return keeper


def _check_resolution(source: Source, sinks: Sequence[Section], *, takes_images: bool) -> None:
    """Check that frames may change their size.

    Raises:
        ConfigError: They may not.
    """
    problem = ""
    if not takes_images or not hasattr(source, "halve"):
        problem = "this source's frames have one size"
    elif any(sink.kind == "video" for sink in sinks):
        problem = "a video has frames of one size"
    if problem:
        raise ConfigError(
            f"budget.order: 'resolution' is not possible: {problem}", hint="take it out of the order"
        )


def _check_own_source(source: Source, sinks: Sequence[Section], context: SinkContext) -> None:
    """Check that no sink writes over the file that the source reads.

    Raises:
        ConfigError: One would.
    """
    own: Path | None = getattr(source, "path", None)
    for section in sinks:
        path = getattr(section.options, "path", "")
        if own is not None and path and context.path(path).resolve() == own.resolve():
            raise ConfigError(
                f"sink {section.kind!r}: {path} is the file that the source reads", hint="give another path"
            )


def _recording(folder: Path, *, takes_images: bool) -> list[Section]:
    # here, as an agent's worker records nothing: half a megabyte
    from edgekit.pipeline.sinks.jsonl import JsonlOptions
    from edgekit.pipeline.sinks.video import VideoOptions

    folder = folder.resolve()
    if used := [name for name in RECORDED if (folder / name).exists()]:
        raise UsageError(
            f"--record {folder}: has a recording already: {', '.join(used)}", hint="give another folder"
        )
    sections = [Section("jsonl", JsonlOptions(path=str(folder / "results.jsonl")))]
    if takes_images:
        sections.append(Section("video", VideoOptions(path=str(folder / "video.mp4"))))
    return sections


def open_sinks(sections: Sequence[Section], context: SinkContext) -> list[Sink]:
    """Open all sinks, or none if one fails."""
    opened: list[Sink] = []
    try:
        for section in sections:
            opened.append(make_sink(section.kind, section.options, context))  # noqa: PERF401 - closed on error
    except EdgekitError:
        for sink in opened:
            sink.close()
        raise
    return opened


@contextlib.contextmanager
def _open_graph(config: PipelineConfig) -> Iterator[Graph | None]:
    """Have the stages after the first open; None for a pipeline of one model."""
    if (stages := open_stages(config)) is None:
        yield None
        return
    with contextlib.closing(stages):
        yield stages.graph()


def _page(
    options: PageOptions | None,
    config: PipelineConfig,
    holder: Holder,
    switch: Switch,
    books: Books,
    path: Path | None,
) -> contextlib.AbstractContextManager[Sink | None]:
    """Serve the pipeline's page, if somebody asked for one."""
    if options is None:
        return contextlib.nullcontext()
    from edgekit.agent.worker.viewing import page_of  # the server's modules take memory

    return page_of(options, config, holder, switch, books, path)


def run_pipeline(
    pipeline: Path | PipelineConfig,
    *,
    frames: int | None = None,
    seconds: float | None = None,
    record: Path | None = None,
    variant: str | None = None,
    watch: Callable[[Loop], contextlib.AbstractContextManager[object]] | None = None,
    sysfs_root: Path = Path("/"),
    page: PageOptions | None = None,
) -> Ran:
    """Run a pipeline's file in this process until its source ends, a limit, SIGINT or SIGTERM.

    Args:
        pipeline: The pipeline's TOML file, or the checked pipeline.
        frames: Stop after this many frames.
        seconds: Stop after this time.
        record: A folder for results, video and ``summary.json``.
        variant: The only variant to consider, instead of the configured one.
        watch: A context manager around the running loop, to show its progress.
        sysfs_root: The folder below which the sensors of ``[budget]`` are read.
        page: Where a browser sees it.

    Raises:
        EdgekitError: It cannot start or continue.
    """
    path = pipeline if isinstance(pipeline, Path) else None
    config = load_config(pipeline) if isinstance(pipeline, Path) else pipeline
    # here, since a worker of the agent, which imports this file, publishes through its supervisor
    from edgekit.sync.address import SystemClock
    from edgekit.sync.ledger import Ledger
    from edgekit.sync.publishers import Publishers

    with contextlib.ExitStack() as stack:
        ledger = stack.enter_context(contextlib.closing(Ledger(state_dir() / "ledger.sqlite", SystemClock())))
        publishers = Publishers(config.pipeline.name, config.privacy.egress, ledger)
        stack.callback(publishers.close)
        holder = Holder(model_path(config), choices_of(config, variant), fallback=config.fallback)
        stack.callback(holder.close)
        turned = make_switch(config, holder.retune)

        def switch(_: ReadyModel, new: ReadyModel) -> None:
            loop.swap(new.predictor)

        loop = make_loop(
            config,
            holder.ready.predictor,
            failover=holder.fail_over,
            recheck=holder.recheck,
            keeper=make_keeper(config, lambda step: holder.change_to(step, switch), sysfs_root=sysfs_root),
            connect=publishers.connect,
            post=publishers.post,
            direct=publishers.direct,
            record=record,
            graph=stack.enter_context(_open_graph(config)),
            switch=turned,
            viewer=stack.enter_context(_page(page, config, holder, turned, ledger, path)),
        )
        holder.watch(switch)
        with stopped_by_signals(loop.stop) as received, watch(loop) if watch else contextlib.nullcontext():
            document = loop.run(frames=frames, seconds=seconds)
        document |= {"returns": holder.returns, "rechecks": holder.rechecks}
    document |= {"brokers": brokers} if (brokers := publishers.states()) else {}
    if record is not None:
        (record / "summary.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return Ran(document, received[0] if received else 0)
