# ruff: noqa: INP001 - a user's folder, no package
"""When somebody speaks in a recording: a voice model on one window after another.

edgekit zoo build silero-vad -o .
python listen.py silero-vad-1.0.0 recording.wav
"""

from __future__ import annotations

import sys
import wave

import numpy as np

import edgekit


def main(bundle: str, recording: str) -> list[tuple[float, float]]:
    """Print each stretch of the recording that has something in it; return their seconds."""
    with wave.open(recording) as file:
        rate = file.getframerate()
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
    stretches: list[tuple[float, float]] = []
    with edgekit.load(bundle) as model:
        window = model.manifest.pre.window
        if rate != model.manifest.pre.rate_hz:
            sys.exit(
                f"{recording}: has {rate} samples a second, the model wants {model.manifest.pre.rate_hz:g}"
            )
        for start in range(0, len(samples) - window + 1, window):
            begin, end = start / rate, (start + window) / rate
            items = model.predict(samples[start : start + window, None]).items
            if not any(item.index for item in items):  # class 0 is silence
                continue
            if stretches and stretches[-1][1] == begin:
                stretches[-1] = stretches[-1][0], end
            else:
                stretches.append((begin, end))
    for begin, end in stretches:
        print(f"{begin:.2f} to {end:.2f} s")
    return stretches


if __name__ == "__main__":
    main(*sys.argv[1:])
