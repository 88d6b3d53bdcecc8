"""A bundle of one scripted model, for pipelines that run in a process of their own."""

import json


def write_image_bundle(folder, *, model="tiny", side=8, **options):
    """Write a classifier of pictures that always answers its second class; return its folder."""
    script = {
        "inputs": {"image": {"datatype": "FP32", "shape": [1, side, side, 3]}},
        "outputs": {"scores": {"datatype": "FP32", "shape": [1, 2], "value": [[0.2, 0.8]]}},
        **options,
    }
    tensors = {
        "inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, side, side, 3], "layout": "NHWC"}],
        "outputs": [{"name": "scores", "datatype": "FP32", "shape": [1, 2]}],
    }
    return _write(folder, model, "classify", tensors, script, {"post": {"decoder": "classify"}})


def write_window_bundle(folder, *, model="shake", window=4, hop=2, channels=3, rate_hz=0.0, **options):
    """Write a classifier of sensor windows that always answers its second class; return its folder."""
    script = {
        "inputs": {"x": {"datatype": "FP32", "shape": [1, window, channels]}},
        "outputs": {"scores": {"datatype": "FP32", "shape": [1, 2], "value": [[0.2, 0.8]]}},
        **options,
    }
    tensors = {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, window, channels]}],
        "outputs": [{"name": "scores", "datatype": "FP32", "shape": [1, 2]}],
    }
    rest = {
        "pre": {"resize": "none", "window": window, "hop": hop, "rate_hz": rate_hz},
        "post": {"decoder": "sensor"},
    }
    return _write(folder, model, "sensor", tensors, script, rest)


def _write(folder, model, task, tensors, script, rest):
    folder.mkdir(parents=True)
    manifest = {
        "format": 1,
        "model": model,
        "version": "1.0.0",
        "task": task,
        **tensors,
        **rest,
        "variants": [{"id": "null", "backend": "null", "options": script}],
    }
    (folder / "bundle.json").write_text(json.dumps(manifest))
    return folder
