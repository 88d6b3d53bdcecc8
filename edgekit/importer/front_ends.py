"""Front ends of sound by the name of what trained a model, for ``front_end=NAME``."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from edgekit.core.errors import UsageError

FRONT_ENDS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "micro-speech": {"kind": "micro", "frame": 480, "step": 320, "low_hz": 125.0, "high_hz": 7500.0},
        "yamnet": {
            "frame": 400,
            "step": 160,
            "is_magnitude": True,
            "bands": 64,
            "low_hz": 125.0,
            "high_hz": 7500.0,
            "slopes": "mel",
            "offset": 0.001,
        },
        "whisper": {
            "frame": 400,
            "step": 160,
            "fft": 400,
            "padding": "reflect",
            "bands": 80,
            "frames": 3000,
            "scale": "slaney",
            "is_area": True,
            "log": "db",
            "top_db": 80.0,
        },
        "librosa": {
            "frame": 2048,
            "step": 512,
            "padding": "zeros",
            "bands": 128,
            "scale": "slaney",
            "is_area": True,
            "log": "db",
            "top_db": 80.0,
        },
        "torchaudio": {
            "frame": 400,
            "step": 200,
            "fft": 400,
            "padding": "reflect",
            "bands": 128,
            "log": "db",
        },
        "kaldi": {
            "frame": 400,
            "step": 160,
            "taper": "povey",
            "emphasis": 0.97,
            "removes_mean": True,
            "bands": 80,
            "low_hz": 20.0,
            "slopes": "mel",
            "floor": 1.1920928955078125e-07,
        },
    }
)
"""Settings of ``core.spec.FrontEnd``.

Sources: TensorFlow Lite Micro's micro_speech; tensorflow/models' yamnet ``params.py``; openai/whisper's
``audio.py`` (mean -40 and std 40 of decibels are its (x + 4) / 4); the defaults of librosa 0.11, of
torchaudio 2's ``MelSpectrogram`` and ``compliance.kaldi.fbank`` (80 bands, no dither).
"""
NORMALISED: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"micro-speech": (0.0, 25.6), "whisper": (-40.0, 40.0)}
)
"""Mean and std of features where the trainer fixes them."""


def stated_front_end(value: Any) -> tuple[dict[str, Any], tuple[float, float] | None]:
    """Return the settings that a flag states, and their mean and std if the trainer fixes them.

    Raises:
        UsageError: It is neither a known name nor a mapping.
    """
    if isinstance(value, Mapping):
        return dict(value), None
    if value not in FRONT_ENDS:
        raise UsageError(
            f"front_end: {value!r} is none of {', '.join(FRONT_ENDS)}",
            hint='or state it whole: front_end={"frame": 400, "step": 160, ...} (docs/bundle.md)',
        )
    return dict(FRONT_ENDS[value]), NORMALISED.get(value)
