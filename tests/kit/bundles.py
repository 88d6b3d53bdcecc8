"""Bundles of the null backend: a whole model in a few hundred bytes, with scripted behaviour."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

WINDOW, CHANNELS = 16, 2
WRONG_OUTPUTS = {"scores": {"datatype": "FP32", "shape": [1, 2], "value": [[0.9, 0.1]]}}
"""What a variant computes that fails the golden sample of ``make_bundle``."""
LABELS = "still\nmoving\n"


def make_bundle(
    folder: Path,
    *,
    model: str = "motion",
    version: str = "1.0.0",
    options: dict[str, Any] | None = None,
    golden: tuple[float, float] | None = None,
    guards: dict[str, Any] | None = None,
    scores: tuple[float, float] = (0.1, 0.9),
    more_variants: tuple[dict[str, Any], ...] = (),
    without_golden: bool = False,
    first: str = "",
    label: str = "moving",
) -> Path:
    """Write a sensor classifier whose outputs, latency and faults are scripted; return its folder.

    ``golden`` is the recorded output; by default the right one. ``first`` is the variant that
    selection ranks first, in place of the manifest's order. ``label`` is that of the greater score.
    """
    (folder / "golden").mkdir(parents=True, exist_ok=True)
    (folder / "labels.txt").write_text(LABELS.replace("moving", label))
    np.savez(folder / "golden/0.npz", x=np.zeros((1, WINDOW, CHANNELS), np.float32))
    np.savez(folder / "golden/0.out.npz", scores=np.array([golden or scores], np.float32))
    listed = []
    for name in ("labels.txt", "golden/0.npz", "golden/0.out.npz"):
        data = (folder / name).read_bytes()
        listed.append({"path": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})
    script = {
        "inputs": {"x": {"datatype": "FP32", "shape": [1, WINDOW, CHANNELS]}},
        "outputs": {"scores": {"datatype": "FP32", "shape": [1, 2], "value": [list(scores)]}},
    }
    variants = [{"id": "null", "backend": "null", "options": {**script, **(options or {})}}]
    variants += [{**v, "options": {**script, **v.get("options", {})}} for v in more_variants]
    variants.sort(key=lambda variant: bool(first) and variant["id"] != first)
    manifest = {
        "format": 1,
        "model": model,
        "version": version,
        "task": "sensor",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, WINDOW, CHANNELS]}],
        "outputs": [{"name": "scores", "datatype": "FP32", "shape": [1, 2]}],
        "pre": {"resize": "none", "window": WINDOW, "hop": WINDOW},
        "post": {"decoder": "classify", "score_threshold": 0.5, "options": {"activation": "none"}},
        "labels": "labels.txt",
        "variants": variants,
        "golden": []
        if without_golden
        else [{"inputs": "golden/0.npz", "outputs": "golden/0.out.npz", "atol": 0.01}],
        "guards": {"min_frames": 10, **(guards or {})},
        "files": listed,
    }
    (folder / "bundle.json").write_text(json.dumps(manifest))
    return folder


def make_detector(folder: Path, *, version: str = "1.0.0", labels: tuple[str, ...] = ("face",)) -> Path:
    """Write a detector that finds its first label in the middle of every picture; return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{label}\n" for label in labels).encode()
    (folder / "labels.txt").write_bytes(text)
    anchors = {
        "layers": 1,
        "strides": [8],
        "min_scale": 0.5,
        "max_scale": 0.5,
        "aspect_ratios": [1.0],
        "interpolated_scale_aspect_ratio": 0.0,
        "fixed_anchor_size": True,
    }
    boxes, scores = [1, 1, 4], [1, 1, len(labels)]
    script = {
        "inputs": {"image": {"datatype": "FP32", "shape": [1, 8, 8, 3]}},
        "outputs": {
            "boxes": {"datatype": "FP32", "shape": boxes, "value": [[[0, 0, 0, 0]]]},
            "scores": {"datatype": "FP32", "shape": scores, "value": [[[0.9] + [0.1] * (len(labels) - 1)]]},
        },
    }
    manifest = {
        "format": 1,
        "model": "motion",
        "version": version,
        "task": "detect",
        "inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 8, 8, 3], "layout": "NHWC"}],
        "outputs": [
            {"name": "boxes", "datatype": "FP32", "shape": boxes},
            {"name": "scores", "datatype": "FP32", "shape": scores},
        ],
        "post": {
            "decoder": "ssd",
            "options": {"anchors": anchors, "activation": "none", "background": False},
        },
        "labels": "labels.txt",
        "variants": [{"id": "null", "backend": "null", "options": script}],
        "guards": {"min_frames": 10},
        "files": [{"path": "labels.txt", "bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}],
    }
    (folder / "bundle.json").write_text(json.dumps(manifest))
    return folder


def pipeline_toml(
    name: str = "motor", model: str = "motion", *, fps: float = 100.0, egress: str = "labels"
) -> str:
    return f"""
[pipeline]
name = "{name}"
model = "{model}"
[source]
kind = "synthetic"
realtime = true
fps = {fps}
[privacy]
egress = ["{egress}"]
[events]
appear = 1
window = 1
"""
