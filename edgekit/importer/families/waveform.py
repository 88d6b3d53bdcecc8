"""Classifiers of sound that take the waveform itself, as YAMNet does."""

from __future__ import annotations

from edgekit.core.spec import Finding
from edgekit.importer.findings import Conclusion, Input, Output
from edgekit.importer.model_file import ModelFile

_YAMNET_SAMPLES, _YAMNET_CLASSES = 15_600, 521
"""0.975 s at 16 kHz; the classes of AudioSet. Source: tensorflow/models, research/audioset/yamnet."""


def recognise(file: ModelFile) -> Conclusion | None:
    """Return the conclusion for a file with YAMNet's window and classes."""
    if len(file.inputs) != 1:
        return None
    (window,) = file.inputs
    scores = next((t for t in file.outputs if file.shape_of(t)[-1:] == (_YAMNET_CLASSES,)), None)
    samples = [size for size in window.shape if size != 1]
    if scores is None or samples not in ([_YAMNET_SAMPLES], [-1]):
        return None
    labels = (Finding("labels", file.labels, "metadata", file.labels_from),) if file.labels else ()
    why = "YAMNet's own"
    shape = tuple(size if size > 0 else _YAMNET_SAMPLES for size in window.shape)
    return Conclusion(
        family="yamnet",
        findings=(
            Finding("task", "audio", "signature", f"{_YAMNET_CLASSES} classes of a waveform"),
            Finding("decoder", "classify", "signature", f"output {scores.name!r}"),
            *labels,
            Finding("resize", "none", "signature", "a window of sound"),
            Finding("window", _YAMNET_SAMPLES, "assumed", why),
            Finding("hop", _YAMNET_SAMPLES // 2, "assumed", why),
            Finding("rate_hz", 16_000, "assumed", why),
            Finding("activation", "none", "assumed", "its head ends in sigmoids"),
            Finding("score_threshold", 0.3, "assumed", "edgekit's"),
        ),
        inputs={"window": Input(window.name, shape=shape)},
        outputs={"scores": Output(scores.name, (1, _YAMNET_CLASSES))},
        shapes={} if shape == window.shape else {window.name: shape},
        no_real_file=True,
    )
