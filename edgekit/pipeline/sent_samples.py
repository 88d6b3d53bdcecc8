"""A sound or a table that a request sends, as what a model takes, within bounds."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from edgekit.core.errors import SourceError, TensorError
from edgekit.pipeline.csv_lines import csv_lines
from edgekit.pipeline.fields import FieldOptions
from edgekit.pipeline.sources import SourceContext
from edgekit.pipeline.sources.audio import Cutter, file_blocks, soundfile
from edgekit.pipeline.sources.samples import Samples

SOUND, TABLE = "sound", "table"
MOST = 256
"""Windows or rows of one request: the model runs them without a break, and everybody else waits."""
_RATES_HZ = (4_000, 192_000)
_SHARED_HZ = 25
"""What two rates must have in common: the resampler's filter grows with what they do not."""
Frames: TypeAlias = "list[tuple[Mapping[str, float], Any]]"
"""Where each lies in the file, and its data."""


def kinds_for(context: SourceContext) -> frozenset[str]:
    """Return which files a model takes: of sound, tables, both, or none."""
    is_sound = context.window and context.channels == 1 and context.rate_hz
    is_table = context.columns or (context.window and context.channels)
    return frozenset({SOUND} if is_sound else ()) | frozenset({TABLE} if is_table else ())


def frames_of(data: bytes, kind: str, context: SourceContext) -> Frames:
    """Return a file's windows or rows, at least one.

    Args:
        data: A WAV file, of which the mean of its channels is taken, with ``start_s`` and ``end_s`` of each
            window, and silence after a sound that is shorter than one; or CSV in UTF-8, with the number of
            the (first) ``row``, from 0 without a header line.
        kind: ``SOUND`` or ``TABLE``, one of ``kinds_for``.
        context: The model's.

    Raises:
        TensorError: It is no such file, a row does not fit, or there are more than ``MOST``.
        ConfigError: Sound needs a library that is not installed.
    """
    return _windows(data, context) if kind == SOUND else _table(data, context)


def _windows(data: bytes, context: SourceContext) -> Frames:
    library, rate_hz = soundfile(), round(context.rate_hz)
    cutter, windows, samples = Cutter(context.window, context.hop), [], 0
    try:
        with library.SoundFile(io.BytesIO(data)) as file:
            length_s = _checked_length_s(file, context)
            for block in file_blocks(file, rate_hz, -1):
                windows += cutter.push(block)
                samples += len(block)
    except (OSError, library.LibsndfileError) as cause:
        why = getattr(cause, "error_string", cause)  # without the open file's name in Python
        raise TensorError(f"the sound cannot be decoded: {why}") from cause
    except SourceError as error:
        raise TensorError(f"the sound: {error.message}") from error
    # a resampler keeps its last millisecond
    missing = max(round(length_s * rate_hz), context.window) - samples
    windows += cutter.push(np.zeros((max(0, missing), 1), np.float32))
    frames: Frames = []
    for _, window, end in windows[:MOST]:
        start_s = round((end - context.window) / rate_hz, 6)
        frames.append(({"start_s": start_s, "end_s": round(min(end / rate_hz, length_s), 6)}, window))
    return frames


def _checked_length_s(file: Any, context: SourceContext) -> float:
    """Return a sound's seconds, which its header states, if it can be decoded within bounds."""
    least_hz, most_hz = _RATES_HZ
    from_hz = int(file.samplerate)
    if not least_hz <= from_hz <= most_hz or math.gcd(from_hz, round(context.rate_hz)) < _SHARED_HZ:
        raise TensorError(f"sound of {from_hz} Hz is not taken, the model's is {context.rate_hz:g} Hz")
    length_s = float(file.frames / from_hz)
    most_s = (context.window + MOST * context.hop) / context.rate_hz
    if not 0 < length_s < most_s:
        raise TensorError(f"want a sound of at most {most_s:.1f} s, got {length_s:.1f} s")
    return length_s


def _table(data: bytes, context: SourceContext) -> Frames:
    samples, frames, rows = Samples(context, TABLE), list[tuple[Mapping[str, float], Any]](), 0
    try:
        file = io.StringIO(str(data, "utf-8-sig"), newline="")
        for line in csv_lines(file, FieldOptions(header=True), context.columns, samples.values):
            if line.row is None:
                raise TensorError(f"row {rows}: {line.problem}")
            rows += 1
            for seq, frame in samples.push([line.row.values]):
                frames.append(({"row": seq * (context.hop or 1)}, frame))
            if len(frames) > MOST:
                raise TensorError(f"want at most {MOST} {'rows' if context.columns else 'windows'}")
    except (csv.Error, UnicodeDecodeError) as cause:
        raise TensorError(f"the table cannot be read: {cause}") from cause
    if not frames:
        raise TensorError(f"want at least {context.window or 1} rows, got {rows}")
    return frames
