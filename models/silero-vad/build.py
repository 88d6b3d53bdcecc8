"""The voice detector: Silero's own file, with golden samples from ONNX's reference implementation."""

from __future__ import annotations

import wave
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from edgekit_optimize.zoo.build import Kit

_RATE_HZ, _WINDOW, _CONTEXT = 16_000, 512, 64
_KEPT = (2, 12, 24)  # golden: one window before the voice begins, two in it
_TUNED = 125  # windows that calibrate: four seconds


def golden(kit: Kit) -> list[dict[str, NDArray[Any]]]:
    """Return windows of the voice recording, each with its context and the state before it."""
    return [feeds for number, feeds in _walk(kit, max(_KEPT) + 1) if number in _KEPT]


def calibration(kit: Kit) -> list[dict[str, NDArray[Any]]]:
    """Return the windows of the recording's first four seconds, without golden samples."""
    return [feeds for number, feeds in _walk(kit, _TUNED) if number not in _KEPT]


def evaluation(kit: Kit) -> list[dict[str, NDArray[Any]]]:
    """Return the other eight seconds, each window with the state that the float model had before it."""
    return [feeds for number, feeds in _walk(kit) if number >= _TUNED]


def _walk(kit: Kit, count: int | None = None) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
    """Run through the recording as a device does, for at most ``count`` windows."""
    samples = np.concatenate([np.zeros(_CONTEXT, np.float32), _resampled(kit)])
    state = np.zeros((2, 1, 128), np.float32)
    evaluate = _evaluator(kit)
    for number, start in enumerate(range(0, len(samples) - _WINDOW - _CONTEXT + 1, _WINDOW)):
        if number == count:
            return
        feeds = {"audio": samples[start : start + _WINDOW + _CONTEXT][np.newaxis], "state": state}
        yield number, feeds
        state = evaluate(feeds)["next_state"]


def reference(kit: Kit, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
    """Return the file's outputs, computed by the ``onnx`` package's reference evaluator in NumPy."""
    return _evaluator(kit)(inputs)


def _evaluator(kit: Kit) -> Callable[[dict[str, NDArray[Any]]], dict[str, NDArray[np.float32]]]:
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(str(kit.file("weights")))

    def evaluate(inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        feeds = {"input": inputs["audio"], "state": inputs["state"]}
        output, state = evaluator.run(["output", "stateN"], feeds)
        return {"probability": output, "next_state": state}

    return evaluate


def _resampled(kit: Kit) -> NDArray[np.float32]:
    """Return the recording at 16 kHz, -1 to 1."""
    with wave.open(str(kit.recording("voice"))) as file:
        rate_hz = file.getframerate()
        raw = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768.0
    smooth = np.convolve(raw, np.ones(3) / 3, "same")  # removes what is above 8 kHz, against aliasing
    times = np.arange(0, len(smooth) / rate_hz, 1 / _RATE_HZ)
    return np.interp(times, np.arange(len(smooth)) / rate_hz, smooth).astype(np.float32)
