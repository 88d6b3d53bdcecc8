"""``edgekit replay``: play a recording through a pipeline and say what would differ."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from edgekit.agent.worker.replaying import Played, picture_at, play
from edgekit.base.command_line import INTERRUPTED, Report
from edgekit.base.disk import disk_errors
from edgekit.cli.run import shown
from edgekit.core.errors import ConfigError, UsageError
from edgekit.pipeline.config import PipelineConfig, load_config
from edgekit.pipeline.differences import At, Differences, compare, draw_both, pair_events
from edgekit.pipeline.pre import vision
from edgekit.pipeline.sinks.clips import ENDINGS

MAX_FRAMES = 20_000
"""What is found in this many frames is kept in memory: 11 minutes at 30 frames a second."""
RECORDED = "recorded"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    parser.add_argument(
        "recording",
        metavar="CLIP|EVENT|TRACE",
        help="a video, or the id or trace id of an event with a clip that the pipeline kept",
    )
    parser.add_argument("pipeline", type=Path, metavar="PIPELINE.toml", help="what to play it through")
    parser.add_argument(
        "--against",
        type=Path,
        metavar="OTHER.toml",
        help="compare with another pipeline; else with the events that stand beside the clip",
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="PNG", help="the picture (NAME.replay.png in this folder)"
    )
    parser.add_argument(
        "--frames", type=int, default=MAX_FRAMES, metavar="N", help=f"the first N frames ({MAX_FRAMES})"
    )


def run(arguments: argparse.Namespace) -> Report:
    """Play the recording once through each pipeline, and compare."""
    if not 1 <= arguments.frames <= MAX_FRAMES:
        raise UsageError(f"--frames: want 1 to {MAX_FRAMES}, got {arguments.frames}")
    paths = [path for path in (arguments.pipeline, arguments.against) if path is not None]
    configs = [load_config(path) for path in paths]
    video = recording_of(arguments.recording, configs[0])
    recorded = None if arguments.against else recorded_events(video)
    watch = shown if sys.stderr.isatty() else None
    played = []
    for config in configs:
        played.append(play(config, video, arguments.frames, watch))
        if played[-1].signal:
            return Report({"interrupted": True}, "interrupted: nothing is compared", INTERRUPTED)
    document: dict[str, Any] = {
        "recording": str(video),
        "frames": played[0].document["frames"]["processed"],
        "runs": [row_of(path, run) for path, run in zip(paths, played, strict=True)],
    }
    if recorded is not None:
        found = against_recorded(recorded, played[0])
        document["runs"].insert(0, {"name": RECORDED, "places": {}})
    else:
        found = compare(played[0].seen, played[1].seen)
    document |= msgspec.to_builtins(outcome(found))
    document["picture"] = None
    if found.most is not None:
        output = arguments.output or Path(f"{video.stem}.replay.png")
        _write(output, picture_of(video, found.most, configs, played))
        document["picture"] = {"path": str(output), "seq": found.most}
    return Report(document, text(document))


def recording_of(word: str, config: PipelineConfig) -> Path:
    """Return the video: a path, or the clip of the event with this id or trace id.

    Raises:
        UsageError: There is none.
    """
    path = Path(word)
    if path.is_file():
        path = path.with_suffix(".mp4") if path.suffix == ".json" else path
        if path.is_file():
            return path
    folders = [
        Path(config.folder) / Path(sink.options.path).expanduser()
        for sink in config.sinks
        if sink.kind == "clips"
    ]
    for folder in folders:
        for events in sorted(folder.glob("*.json")):
            if any(word in (event.get("id"), event.get("trace_id")) for event in _read(events)):
                return events.with_suffix(".mp4")
    where = ", ".join(map(str, folders)) or f"pipeline {config.pipeline.name!r} has no clips sink"
    raise UsageError(
        f"{word}: want a video, or an event of a clip, got neither ({where})",
        hint="give a video's path, or the id or trace id of an event of the pipeline's clips sink",
    )


def recorded_events(video: Path) -> list[dict[str, Any]]:
    """Return the events that stand beside a clip.

    Raises:
        UsageError: There are none.
    """
    path = video.with_suffix(".json")
    if not path.is_file():
        raise UsageError(
            f"{video}: no events stand beside it, so there is nothing to compare with",
            hint="compare two pipelines: --against OTHER.toml",
        )
    return _read(path)


def _read(path: Path) -> list[dict[str, Any]]:
    with disk_errors(path):
        data = path.read_bytes()
    try:
        return msgspec.json.decode(data, type=list[dict[str, Any]])
    except msgspec.DecodeError as cause:
        raise ConfigError(f"{path}: is not a clip's list of events: {cause}") from cause


def against_recorded(recorded: Sequence[Mapping[str, Any]], played: Played) -> Differences:
    """Return how the events of a run differ from those that stand beside the clip, in their order.

    A clip's list has those that it was made for: others count only if some of their kind are in it.
    """
    kinds = {event["kind"] for event in recorded}
    events = [
        (event, At(seen.seq, round(seen.media_s, 3)))
        for seen in played.seen.values()
        for event in seen.events
        if event["kind"] in kinds or event["kind"] not in ENDINGS
    ]
    return Differences(pair_events([(event, At(event["seq"], None)) for event in recorded], events))


def row_of(path: Path, played: Played) -> dict[str, Any]:
    """Return what a pipeline is and what it counted."""
    names = ("pipeline", "model", "version", "variant", "events")
    row = {"name": str(path), **{name: played.document[name] for name in names}}
    return row | {"places": {name: played.document.get(name, {}) for name in ("zones", "lines")}}


def outcome(found: Differences) -> dict[str, Any]:
    """Return the differences as the document of ``--json``."""
    return {
        "differ": found.differ,
        "kinds": found.kinds(),
        "events": [row for row in found.events if row.differs],
        "items": found.items,
        "frames_differing": len(found.differing),
    }


def picture_of(video: Path, seq: int, configs: Sequence[PipelineConfig], played: Sequence[Played]) -> bytes:
    """Return a frame with the boxes of both pipelines as a PNG; what either hides is hidden."""
    runs = [(config, run.seen) for config, run in zip(configs, played, strict=True)]
    pixels = picture_at(video, seq, runs)
    items = [run.seen[seq].prediction.items for run in played]
    _, png = vision().imencode(".png", draw_both(pixels, *items))
    return bytes(png)


def _write(path: Path, data: bytes) -> None:
    with disk_errors(path):
        path.write_bytes(data)


def text(document: Mapping[str, Any]) -> str:
    """Return the differences as tables."""
    lines = [f"{document['recording']}: {document['frames']} frames"]
    for letter, row in zip("AB", document["runs"], strict=True):
        model = f": {row['model']} {row['version']}, variant {row['variant']}" if "model" in row else ""
        lines.append(f"  {letter}  {row['name']}{model}")
    for title, rows in (("events", document["kinds"]), ("items, frame by frame", document["items"])):
        if rows:
            lines += ["", f"{title:<32}{'A':>8}{'B':>8}{'only A':>8}{'only B':>8}"]
            lines += [f"  {name:<30}{_counts(row)}" for name, row in rows.items()]
    lines += ["", *(_event_line(row) for row in document["events"])]
    if not document["differ"]:
        lines.append("nothing differs")
    elif document["items"]:
        lines.append(f"{document['frames_differing']} of {document['frames']} frames differ")
    if document["picture"]:
        lines.append(f"picture: {document['picture']['path']}, frame {document['picture']['seq']}")
    return "\n".join(lines)


def _counts(row: Mapping[str, int]) -> str:
    return "".join(f"{row[name]:>8}" for name in ("a", "b", "only_a", "only_b"))


def _event_line(row: Mapping[str, Any]) -> str:
    where = " ".join(
        str(row[name]) for name in ("stage", "label", "zone", "line", "direction") if row.get(name)
    )
    sides = ", ".join(f"{side.upper()} {_at(row[side])}" for side in ("a", "b"))
    return f"  {row['kind']} {where}: {sides}"


def _at(at: Mapping[str, Any] | None) -> str:
    if at is None:
        return "not"
    return "recorded" if at["media_s"] is None else f"at {at['media_s']:.2f} s (frame {at['seq']})"
