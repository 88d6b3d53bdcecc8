"""Windows of samples: sensors, sound (with a front end or as it is), forecasts and reconstructions.

No shape says what a window's samples are, so the user names the decoder, and states what no file holds: how
samples are normalised, their rate, a threshold. The longer axis is time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

from edgekit.core.errors import BundleError
from edgekit.core.spec import Finding
from edgekit.importer.families.vector import activation_of
from edgekit.importer.findings import Conclusion, Input, Output
from edgekit.importer.model_file import FileTensor, ModelFile

_TASKS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "sensor": ("sensor", "scores"),
        "classify": ("sensor", "scores"),
        "anomaly": ("anomaly", "reconstruction"),
        "outlier": ("anomaly", "score"),
        "regress": ("regress", "values"),
        "vad": ("voice", "probability"),
        "embed": ("embed", "embedding"),
    }
)
"""By decoder: the task, and the decoder's output."""
_SOUND_HZ = 4000
"""Nobody samples a sensor of motion as fast as this, or sound more slowly."""
_KINDS = "sensor, classify, anomaly (a reconstruction), outlier, regress (also a forecast), vad or embed"
_REALS = ("FP32", "FP16", "FP64", "INT8", "UINT8", "INT16")


def recognise(file: ModelFile) -> Conclusion | None:
    """Return the conclusion for a file whose only input is a window and no picture, or said to be one.

    Raises:
        BundleError: The user's window does not fit the input.
    """
    if len(file.inputs) != 1 or file.inputs[0].datatype not in _REALS:
        return None
    (tensor,), decoder = file.inputs, str(file.flags.get("decoder", "")).lower()
    is_said = bool({"window", "front_end"} & file.flags.keys())
    if not is_said and (file.image() is not None or len(tensor.shape) != 3):
        return None
    if decoder not in _TASKS:
        is_open = not decoder and (is_said or min(tensor.shape[1:]) > 0)
        return (
            Conclusion(family="window", findings=(), outputs={}, asks={"decoder": _KINDS})
            if is_open
            else None
        )
    task, logical = _TASKS[decoder]
    window, shape, source = _window(file, tensor)
    output = _output(file, decoder)
    if output is None:
        return None
    rate_hz = float(file.flags.get("rate_hz", 0) or 0)
    is_sound = "front_end" in file.flags or rate_hz >= _SOUND_HZ
    task = "audio" if is_sound and task == "sensor" else task
    why = f"input {tensor.name!r} {list(tensor.shape)}"
    return Conclusion(
        family="window",
        findings=(
            Finding("task", task, "flag", "--decoder"),
            Finding("decoder", decoder, "flag"),
            *_labels(file),
            Finding("resize", "none", "flag", "a window of samples"),
            Finding("window", window, source, why),  # type: ignore[arg-type]
            Finding("hop", max(1, window // 2), "assumed", "half of every window is new"),
            *(activation_of(file, output),) * (logical == "scores"),
            *(Finding("top_k", 3, "assumed", "edgekit's"),) * (logical == "scores"),
        ),
        inputs={"window": Input(tensor.name, shape=shape)},
        outputs={logical: Output(output.name, _logical_shape(file, output, decoder))},
        asks=_asks(file, tensor, decoder, output, is_sound=is_sound),
        shapes={tensor.name: (1, *tensor.shape[1:])} if min(tensor.shape) < 0 < min(tensor.shape[1:]) else {},
    )


def _window(file: ModelFile, tensor: FileTensor) -> tuple[int, tuple[int, ...], str]:
    """Return the samples of a window, the shape in which a window is given, and where that comes from."""
    stated = file.flags.get("window")
    size = math.prod(tensor.shape[1:] or tensor.shape)
    if file.flags.get("front_end"):
        return (int(stated or 0), (1, int(stated or 0)), "flag")
    if isinstance(stated, int) and stated > 0:
        if size % stated:
            raise BundleError(
                f"{file.path}: window={stated}: its input has {size} numbers, no multiple of that",
                hint="a window has so many samples, each of one or more channels",
            )
        return stated, (1, stated, max(1, size // stated)), "flag"
    inner = [length for length in tensor.shape[1:] if length != 1]
    window = max(inner, default=0)
    return window, (1, window, max(1, size // max(window, 1))), "assumed"


def _output(file: ModelFile, decoder: str) -> FileTensor | None:
    """Return the only output that a decoder can read."""
    sizes = {t.name: math.prod(file.shape_of(t)[1:]) for t in file.outputs}
    size = math.prod(file.inputs[0].shape[1:])
    ranges = {"anomaly": (size, size), "outlier": (1, 1), "vad": (1, 1), "regress": (1, math.inf)}
    low, high = ranges.get(decoder, (2, math.inf))
    found = [t for t in file.outputs if low <= sizes[t.name] <= high]
    return found[0] if len(found) == 1 else None


def _logical_shape(file: ModelFile, output: FileTensor, decoder: str) -> tuple[int, ...]:
    shape = file.shape_of(output)
    if decoder == "regress" and len(shape) == 3:
        return (1, *shape[1:])
    return (1, math.prod(shape[1:]))


def _labels(file: ModelFile) -> tuple[Finding, ...]:
    return (Finding("labels", file.labels, "metadata", file.labels_from),) if file.labels else ()


def _asks(
    file: ModelFile, tensor: FileTensor, decoder: str, output: FileTensor, *, is_sound: bool
) -> dict[str, str]:
    """Return what only the user knows of a window."""
    unknown = "how samples are normalised is not in the file ((x - mean) / std; sound is -1 to 1)"
    asks = {"mean": unknown, "std": unknown}
    if "front_end" in file.flags:
        asks = {"window": "the samples of sound in a window"}
    if is_sound:
        asks["rate_hz"] = "samples a second, as it was trained"
    if decoder in ("sensor", "classify") and not file.labels:
        asks["labels"] = f"{math.prod(file.shape_of(output)[1:])} classes, and the file has no names"
    if decoder in ("anomaly", "outlier"):
        asks["threshold"] = "the value from which a window is an anomaly (is_low=true: below which)"
    if tensor.shape[1:] and min(tensor.shape[1:]) < 0:
        asks["window"] = "the samples of a window, which the file leaves free"
    return asks
