"""The voice detector: Silero's own file, with golden samples from ONNX's reference implementation."""

from __future__ import annotations

import wave
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.optimize.zoo import Kit

_RATE_HZ, _WINDOW, _CONTEXT = 16_000, 512, 64
_KEPT = (2, 12, 24)  # one window before the voice begins, two in it


def golden(kit: Kit) -> list[dict[str, NDArray[Any]]]:
    """Return windows of the voice recording, each with its context and the state before it."""
    samples = _resampled(kit)
    state = np.zeros((2, 1, 128), np.float32)
    found = []
    for number in range(max(_KEPT) + 1):
        start = number * _WINDOW
        window = np.concatenate([np.zeros(_CONTEXT, np.float32), samples])[start:][: _WINDOW + _CONTEXT]
        feeds = {"audio": window[np.newaxis], "state": state}
        if number in _KEPT:
            found.append(feeds)
        state = reference(kit, feeds)["next_state"]
    return found


def reference(kit: Kit, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
    """Return what the file computes, by the ``onnx`` package's own evaluator, in NumPy."""
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(str(kit.file("weights")))
    output, state = evaluator.run(["output", "stateN"], {"input": inputs["audio"], "state": inputs["state"]})
    return {"probability": output, "next_state": state}


def _resampled(kit: Kit) -> NDArray[np.float32]:
    """Return the recording at 16 kHz, -1 to 1."""
    with wave.open(str(kit.recording("voice"))) as file:
        rate_hz = file.getframerate()
        raw = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768.0
    smooth = np.convolve(raw, np.ones(3) / 3, "same")  # nothing above 8 kHz may fold back
    times = np.arange(0, len(smooth) / rate_hz, 1 / _RATE_HZ)
    return np.interp(times, np.arange(len(smooth)) / rate_hz, smooth).astype(np.float32)
