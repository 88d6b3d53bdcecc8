"""Whether objects are counted as a person counts them, on recordings with hand-counted crossings and zones.

``--data FOLDER`` holds ``counting.json`` and its clips. A detector is imported (``--model FILE``; by default
``../weights/yolov8/yolov8n_int8_eron.tflite`` beside the folder), and a pipeline with ``[track]`` and the
clip's lines and zones runs on every frame. It follows the labels that a person counted, and all other
settings are the defaults. In a clip with one class of objects (a view for which a detector may have no right
label) every label counts as that class. The claim: every crossing that is not ambiguous is counted, with its
direction, within its tolerance, and nothing is counted that did not happen or twice. Stated beside it: visits
of zones (entry, exit and dwell within the tolerance), tracks against the appearances that a person counted
(the surplus is breaks and false tracks), and identity switches (one track that made the crossings or visits
of two different objects).

With ``--motion SHARE`` the detector is not run on a frame of which less has changed since it last looked, and
what that misses of the clips stands in the same rows, with the share of frames that it was spared.

    python benchmarks/counting.py --data FOLDER [--model FILE | --bundle FOLDER] [--motion SHARE] [--json]
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from _report import finish, parser

from edgekit.agent.config import to_toml
from edgekit.agent.worker.runner import run_pipeline
from edgekit.importer.importing import import_model
from edgekit.pipeline.config import parse_config

TOLERANCE_S = 0.7
Row = dict[str, Any]


def directions(p1: list[float], p2: list[float]) -> tuple[str, str]:
    """Return what forward and backward across a line are called in ``counting.json``."""
    x, y = p1[1] - p2[1], p2[0] - p1[0]  # to the right hand of whoever looks from p1 to p2
    if abs(x) >= abs(y):
        return ("L>R", "R>L") if x > 0 else ("R>L", "L>R")
    return ("T>B", "B>T") if y > 0 else ("B>T", "T>B")


def run(clip: Row, data: Path, bundle: Path, work: Path, motion: float) -> tuple[Row, list[Row]]:
    """Return the summary and the events of a clip, each event with its second ``t`` in the clip."""
    lines = [
        {
            "name": line["id"].lower(),
            "points": [line["p1"], line["p2"]],
            "directions": [*directions(line["p1"], line["p2"])],
        }
        for line in clip["lines"]
    ]
    zones = [{"name": zone["id"].lower(), "polygon": zone["polygon"]} for zone in clip["zones"]]
    classes = sorted(clip["objects"])
    events = work / f"{clip['file']}.jsonl"
    tables = {
        "pipeline": {"name": "counting"},
        "stage": [{"name": "objects", "model": str(bundle), "motion": motion}],
        "source": {"kind": "video", "uri": str((data / clip["file"]).resolve())},
        "track": {"alike": [["*"]]} if len(classes) == 1 else {"labels": classes},
        "line": lines,
        "zone": zones,
        "sink": [{"kind": "jsonl", "path": str(events), "what": "events"}],
    }
    document = run_pipeline(parse_config(to_toml(tables))).document
    rows = [json.loads(text) for text in events.read_text().splitlines()]
    label = {"label": classes[0]} if len(classes) == 1 else {}
    return document, [{**row, **label, "t": row.get("start_seq", 0) / clip["fps"]} for row in rows]


def same(event: Row, wanted: Row) -> bool:
    """Return whether an event is one that a person saw."""
    times = [wanted[key] for key in ("t", "t_bottom") if key in wanted]
    near = any(abs(event["t"] - t) <= wanted.get("tol", TOLERANCE_S) for t in times)
    return near and event["label"] == wanted["class"] and event["direction"] == wanted["direction"]


def judged_line(line: Row, events: list[Row], sees: list[Row]) -> Row:
    """Match a line's events with those of a person, the certain ones first, the nearest first."""
    sure = [row for row in line["events"] if not row.get("ambiguous")]
    unsure = [row for row in line["events"] if row.get("ambiguous")]
    left, missed = list(events), []
    for wanted in [*sure, *unsure]:
        fits = sorted((e for e in left if same(e, wanted)), key=lambda e: abs(e["t"] - wanted["t"]))
        if fits:
            left.remove(fits[0])
            sees.append({"who": wanted["who"], "track": fits[0]["tracks"][0]})
        elif not wanted.get("ambiguous"):
            missed.append(wanted)
    hovering = [row for row in sure if row.get("hover")]
    extra = [
        e for e in left if not any(abs(e["t"] - row["t"]) <= row.get("tol", TOLERANCE_S) for row in hovering)
    ]
    return {
        "certain": len(sure),
        "counted": len(sure) - len(missed),
        "missed": [f"{row['who']} {row['direction']} at {row['t']} s" for row in missed],
        "not there or twice": [f"{e['label']} {e['direction']} at {e['t']:.1f} s" for e in extra],
    }


def judged_zone(zone: Row, clip: Row, events: list[Row], sees: list[Row]) -> Row:
    """Match a zone's visits with those of a person, and say how far the dwell times are off."""
    end_s = clip["frames"] / clip["fps"]
    visits = {
        e["id"]: {"label": e["label"], "track": e["tracks"][0], "enter": e["t"], "exit": end_s}
        for e in events
    }
    for event in events:
        if event["kind"] == "left":
            visits[event["id"]]["exit"] = event["t"] + event.get("dwell_s", 0.0)
    left, off, missed = list(visits.values()), [], []
    for wanted in sorted(zone["visits"], key=lambda row: bool(row.get("ambiguous"))):
        tol = wanted.get("tol", TOLERANCE_S)
        fits = [
            v
            for v in left
            if v["label"] == wanted["class"]
            and abs(v["enter"] - wanted["enter"]) <= tol
            and abs(v["exit"] - wanted["exit"]) <= tol
        ]
        if fits:
            left.remove(fits[0])
            sees.append({"who": wanted["who"], "track": fits[0]["track"]})
            off.append(abs(fits[0]["exit"] - fits[0]["enter"] - wanted["dwell_s"]))
        elif not wanted.get("ambiguous"):
            missed.append(f"{wanted['who']} {wanted['enter']} to {wanted['exit']} s")
    return {
        "visits": sum(not row.get("ambiguous") for row in zone["visits"]),
        "missed": missed,
        "others": [f"{v['label']} {v['enter']:.1f} to {v['exit']:.1f} s" for v in left],
        "dwell_off_s": round(max(off, default=0.0), 2),
    }


def switches(sees: list[Row]) -> list[str]:
    """Return the tracks that were two different objects."""
    whos: dict[int, set[str]] = defaultdict(set)
    for row in sees:
        whos[row["track"]].add(row["who"])
    return [f"track {track}: {', '.join(sorted(who))}" for track, who in whos.items() if len(who) > 1]


def judged(clip: Row, document: Row, events: list[Row]) -> Row:
    """Return what was right and wrong in a clip."""
    sees: list[Row] = []
    lines = {
        line["id"]: judged_line(
            line, [e for e in events if e["kind"] == "crossed" and e["line"] == line["id"].lower()], sees
        )
        for line in clip["lines"]
    }
    inside = [e for e in events if e["kind"] in ("entered", "left")]
    zones = {
        zone["id"]: judged_zone(zone, clip, [e for e in inside if e["zone"] == zone["id"].lower()], sees)
        for zone in clip["zones"]
    }
    appeared = Counter(e["label"] for e in events if e["kind"] == "appeared")
    counted = {label: row.get("appearances", row["distinct"]) for label, row in clip["objects"].items()}
    return {
        "lines": lines,
        "zones": zones,
        "tracks": {label: {"tracks": appeared[label], "a person counted": n} for label, n in counted.items()},
        "identity_switches": switches(sees),
        "stage_ms": document["stage_ms"],
        "not_looked_at_share": round(document["stages"][0]["skipped"] / clip["frames"], 3),
    }


def main(arguments: list[str]) -> int:
    """Run the clips and print the outcome."""
    flags = parser(
        __doc__, full="the same: every clip runs whole", sabotage="every third crossing is skipped"
    )
    flags.add_argument(
        "--data", type=Path, required=True, metavar="FOLDER", help="counting.json and its clips"
    )
    flags.add_argument("--model", type=Path, metavar="FILE", help="the detector to import")
    flags.add_argument("--bundle", type=Path, metavar="FOLDER", help="a detector that is imported already")
    flags.add_argument("--motion", type=float, default=0.0, metavar="SHARE", help="of the first stage")
    given = flags.parse_args(arguments)
    clips = json.loads((given.data / "counting.json").read_text())["clips"]
    model = given.model or given.data.parent / "weights" / "yolov8" / "yolov8n_int8_eron.tflite"
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        bundle = given.bundle or import_model(model, work / "detector").path
        for clip in clips:
            document, events = run(clip, given.data, bundle.resolve(), work, given.motion)
            if given.sabotage:
                crossed = [e for e in events if e["kind"] == "crossed"]
                events = [e for e in events if e not in crossed[::3]]
            found[clip["file"]] = judged(clip, document, events)
    lines = [line for clip in found.values() for line in clip["lines"].values()]
    wrong = sum(len(line["missed"]) + len(line["not there or twice"]) for line in lines)
    detail = {
        "model": str(given.bundle or model.name),
        "crossings": sum(line["certain"] for line in lines),
        "clips": found,
    }
    return finish(
        "crossings missed, invented or counted twice", wrong, "crossings", 0, wrong == 0, detail, given.json
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
