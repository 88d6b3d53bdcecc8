"""``edgekit run``: run a pipeline and print a summary."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.agent.worker.runner import run_pipeline
from edgekit.base.command_line import INTERRUPTED, Report
from edgekit.cli.qr import qr_code
from edgekit.core.errors import LinkError, UsageError
from edgekit.pipeline.config import PipelineConfig
from edgekit.pipeline.loop import Loop
from edgekit.pipeline.quick import quick_config

if TYPE_CHECKING:
    from edgekit.agent.worker.viewing import PageOptions

REFRESH_S = 0.5
_LOST = ("unsent", "dropped", "refused")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    parser.add_argument("pipeline", type=Path, metavar="PIPELINE.toml|BUNDLE", help="what to run")
    parser.add_argument("--source", metavar="FILE|CAMERA|URL", help="where a BUNDLE's frames come from")
    parser.add_argument(
        "--sink",
        action="append",
        default=[],
        metavar="KIND[:PATH]",
        help="where a BUNDLE's results go: video, jsonl",
    )
    limit = parser.add_mutually_exclusive_group()
    limit.add_argument("--frames", type=int, metavar="N", help="stop after N frames")
    limit.add_argument("--seconds", type=float, metavar="S", help="stop after S seconds")
    parser.add_argument(
        "--record", type=Path, metavar="DIR", help="write results, drawn video and summary there"
    )
    parser.add_argument(
        "--view", action="store_true", help="show it in a browser; a BUNDLE's file then plays on, as a camera"
    )
    parser.add_argument(
        "--view-host", metavar="H", help="the page's address; by default this machine's own, 127.0.0.1"
    )
    parser.add_argument("--view-port", type=int, metavar="P", help="the page's port (8008; 0: any free one)")
    parser.add_argument("--variant", metavar="ID", help="the only variant to consider")
    parser.add_argument(
        "--sysfs-root",
        type=Path,
        default=Path("/"),
        metavar="DIR",
        help="read the budget's sensors below DIR",
    )


def run(arguments: argparse.Namespace) -> Report:
    """Run until the source ends, a limit, or a signal; exit code 7 if a broker got no message at all."""
    for name in ("frames", "seconds"):
        value = getattr(arguments, name)
        if value is not None and value <= 0:
            raise UsageError(f"--{name}: want a number above 0, got {value}")
    ran = run_pipeline(
        pipeline_of(arguments.pipeline, arguments.source, arguments.sink, plays_on=arguments.view),
        frames=arguments.frames,
        seconds=arguments.seconds,
        record=arguments.record,
        variant=arguments.variant,
        sysfs_root=arguments.sysfs_root,
        watch=shown if sys.stderr.isatty() else None,
        page=page_of(arguments),
    )
    code = INTERRUPTED if ran.signal == signal.SIGINT else exit_code(ran.document)
    return Report(ran.document, text(ran.document), code)


def page_of(arguments: argparse.Namespace) -> PageOptions | None:
    """Return where the page of ``--view`` listens; None without it.

    Raises:
        UsageError: Its address is given without ``--view``.
    """
    given = {"host": arguments.view_host, "port": arguments.view_port}
    given = {name: value for name, value in given.items() if value is not None}
    if not arguments.view:
        if given:
            raise UsageError("--view-host and --view-port go with --view")
        return None
    from edgekit.agent.worker.viewing import PageOptions  # the server's modules take memory

    return PageOptions(**given, on_open=show_link)


def show_link(link: str) -> None:
    """Print the page's link on stderr, and on a terminal as a QR code if the library for it is installed."""
    print(f"view: {link}", file=sys.stderr, flush=True)
    if sys.stderr.isatty() and (code := qr_code(link)):
        print(code, file=sys.stderr, flush=True)


def pipeline_of(
    path: Path, source: str | None, sinks: Sequence[str], *, plays_on: bool = False
) -> Path | PipelineConfig:
    """Return a pipeline's file, or the pipeline of a bundle with its source and sinks.

    ``plays_on``: a bundle's video or pictures are shown at their own pace, again and again.

    Raises:
        UsageError: A bundle has no source, or a pipeline's file gets one.
    """
    if path.suffix == ".toml":
        if source or sinks:
            raise UsageError(f"{path}: has its own source and sinks", hint="leave out --source and --sink")
        return path
    if source is None:
        raise UsageError(f"{path}: is a bundle, and needs --source", hint="give --source FILE|CAMERA")
    return quick_config(path, source, sinks, plays_on=plays_on)


def exit_code(document: Mapping[str, Any]) -> int:
    """Return 7 if a broker got none of the messages for it, else 0."""
    is_lost = (not row["sent"] and any(row[key] for key in _LOST) for row in document.get("brokers", ()))
    return LinkError.exit_code if any(is_lost) else 0


@contextlib.contextmanager
def shown(loop: Loop) -> Iterator[None]:
    """Show the loop's progress on one line of the terminal."""
    ended = threading.Event()

    def refresh() -> None:
        while not ended.wait(REFRESH_S):
            document = loop.tally.document()
            line = f"{document['frames']['processed']} frames, {document['fps']:.1f}/s"
            print(f"\r\x1b[K{line}, {document['events']} events", end="", file=sys.stderr, flush=True)

    thread = threading.Thread(target=refresh, name="progress-line", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def text(document: dict[str, Any]) -> str:
    """Return the summary as text."""
    frames, latency, stages = document["frames"], document["latency_ms"], document["stage_ms"]
    model = f"{document['model']} {document['version']}, variant {document['variant']}"
    counts = f"{frames['processed']} of {frames['captured']} frames, {frames['dropped']} dropped"
    lines = [
        f"{document['pipeline']}: {model} ({document['backend']} on {document['accelerator']})",
        f"  {counts}, {document['fps']:.1f} a second",
    ]
    if latency["p50"] is not None:
        lines.append(
            "  capture to sink "
            + ", ".join(f"{name} {value:.1f} ms" for name, value in latency.items())
            + " ("
            + ", ".join(f"{name} {value:.1f}" for name, value in stages.items())
            + ")"
        )
    back = f", {document['returns']} returns" if document["returns"] else ""
    lines.append(
        f"  {document['events']} events, {document['errors']} errors, {document['failovers']} failovers{back}"
    )
    if budget := document.get("budget"):
        lines.append(f"  budget: {budget['setting'] or 'nothing is given up'} ({budget['changes']} changes)")
    lines += [f"  {line}" for line in source_lines(document.get("source", {}))]
    lines += [f"  {broker_text(state)}" for state in document.get("brokers", ())]
    return "\n".join(lines)


def source_lines(state: Mapping[str, Any]) -> list[str]:
    """Return a line for what a source left out, and for each stream of a camera that was lost."""
    left_out = ", ".join(
        f"{count} {name.replace('_', ' ')}"
        for name, count in state.items()
        if isinstance(count, int) and count and name != "reopened"
    )
    lines = [f"source: {left_out}"] if left_out else []
    for name, row in (("source", state), ("main stream", state.get("main", {}))):
        if row.get("reopened") or row.get("state") == "lost":
            fault = f"{row['fault']}: " if row["fault"] and row["fault"] not in row["reason"] else ""
            lines.append(
                f"{name}: {row['state']}, opened again {row['reopened']} times, last {fault}{row['reason']}"
            )
    return lines


def broker_text(state: Mapping[str, Any]) -> str:
    """Return how many messages one broker got, and why it did not get all of them."""
    lost = ", ".join(f"{state[key]} {key}" for key in _LOST if state[key])
    why = f" ({state['problem']})" if state["problem"] else ""
    return f"broker {state['destination']}: {state['sent']} sent{', ' if lost else ''}{lost}{why}"
