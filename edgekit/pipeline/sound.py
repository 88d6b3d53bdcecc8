"""Front ends of models of sound: from samples to frames of mel bands, in NumPy alone.

A window of samples becomes an array (frames, bands), as the library that a model was trained with makes it.
``core.spec.FrontEnd`` has the settings; docs/bundle.md those of librosa, torchaudio, Kaldi, TensorFlow and
TensorFlow Lite Micro.

    features = Features(front_end, rate_hz=16_000)(samples)

Sources: S. Davis and P. Mermelstein (1980) for the cepstrum; the documentation of librosa 0.11
(``feature.melspectrogram``, ``power_to_db``, ``feature.mfcc``), of torchaudio 2 (``transforms``,
``compliance.kaldi.fbank``) and of TensorFlow 2 (``tf.signal``); TensorFlow's
``lite/experimental/microfrontend`` for ``micro``.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import BundleError
from edgekit.core.spec import FrontEnd

Floats = NDArray[np.float32]
_INT16 = 32768.0
_MOST_FFT = 1 << 16


class Features:
    """Makes features of windows; holds tables alone, so it has no state from window to window.

    Args:
        front_end: The manifest's.
        rate_hz: Samples a second.

    Raises:
        BundleError: The settings contradict each other.
    """

    def __init__(self, front_end: FrontEnd, rate_hz: float) -> None:
        self._settings = front_end
        self._fft = front_end.fft or 1 << max(0, front_end.frame - 1).bit_length()
        if problems := _problems(front_end, self._fft, rate_hz):
            raise BundleError(f"pre.front_end: {problems[0]}", reasons=tuple(problems[1:]))
        is_micro, high_hz = front_end.kind == "micro", front_end.high_hz or rate_hz / 2
        self._taper = _taper("micro" if is_micro else front_end.taper, front_end.frame)
        self._bank = (_micro_bank if is_micro else _mel_bank)(front_end, self._fft, rate_hz, high_hz)
        self._dct = _dct(front_end) if front_end.kind == "mfcc" else None

    def shape(self, samples: int) -> tuple[int, int]:
        """Return (frames, bands or coefficients) of a window of so many samples."""
        settings = self._settings
        if settings.padding != "none":
            samples += 2 * (self._fft // 2)
        length = settings.frame if settings.padding == "none" else self._fft
        count = max(0, 1 + (samples - length) // settings.step)
        width = settings.coefficients if settings.kind == "mfcc" else settings.bands
        return min(count, settings.frames or count), width

    def __call__(self, samples: Floats) -> Floats:
        """Return a window's features, shape (frames, bands), float32.

        Args:
            samples: Shape (n,), float32, -1 to 1.
        """
        if self._settings.kind == "micro":
            return self._micro(samples)
        bands = self._spectrum(self._frames(samples)) @ self._bank
        logarithms = _logarithm(bands, self._settings)
        if self._dct is None:
            return logarithms
        return np.asarray(logarithms @ self._dct, np.float32)

    def _frames(self, samples: Floats) -> NDArray[np.float64]:
        """Return the tapered frames, (frames, fft points); those of a padded window are centred in them."""
        settings, spare = self._settings, self._fft - self._settings.frame
        (count, _), left = self.shape(len(samples)), 0
        if settings.padding != "none":
            left = spare // 2
            samples = np.pad(
                samples, self._fft // 2, "reflect" if settings.padding == "reflect" else "constant"
            )
        starts = left + settings.step * np.arange(count)[:, None]
        frames = samples[starts + np.arange(settings.frame)].astype(np.float64) * settings.gain
        if settings.removes_mean:
            frames -= frames.mean(axis=1, keepdims=True)
        if settings.emphasis:
            before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
            frames = frames - settings.emphasis * before
        return np.pad(frames * self._taper, ((0, 0), (left, spare - left)))

    def _spectrum(self, frames: NDArray[np.float64]) -> NDArray[np.float64]:
        lines = np.abs(np.fft.rfft(frames, self._fft))
        return lines if self._settings.is_magnitude else lines**2

    def _micro(self, samples: Floats) -> Floats:
        """Return what TensorFlow Lite Micro's front end gives, in its units, within its rounding.

        A band's level is compared with an estimate of its noise, which even and odd bands follow at different
        speeds; the gain falls with it, and what is left is 64 times a natural logarithm.
        """
        whole = np.clip(np.rint(samples * np.float32(_INT16)), -_INT16, _INT16 - 1)
        lines = np.abs(np.fft.rfft(np.floor(self._frames(whole)), self._fft))
        levels = np.floor(np.sqrt(lines**2 @ self._bank))
        speed = np.where(np.arange(self._settings.bands) % 2, _ODD, _EVEN)
        noise, rows = np.zeros(self._settings.bands), []
        for level in levels:
            noise = noise + speed * (level - noise)
            left = np.maximum(level - np.minimum(noise, level), _REMAINS * level)
            ratio = left * _GAIN / (noise * _GAIN + _OFFSET) ** _STRENGTH
            output = np.where(ratio < _KNEE, ratio**2 / 4, ratio - 1) * _UNIT
            rows.append(_UNIT * np.log(np.maximum(np.floor(output) * _CORRECTION, 1.0)))
        return np.asarray(rows, np.float32).reshape(-1, self._settings.bands)


_EVEN, _ODD, _REMAINS = 0.025, 0.06, 0.05
_STRENGTH, _OFFSET, _GAIN, _KNEE, _UNIT, _CORRECTION = 0.95, 80.0, 8.0, 2.0, 64.0, 8.0
"""Source: TensorFlow's ``frontend_util.c``, ``FrontendFillConfigWithDefaults``, and ``pcan_gain_control``."""


def _problems(settings: FrontEnd, fft: int, rate_hz: float) -> list[str]:
    found = []
    if settings.frame < 1 or settings.step < 1:
        found.append(f"frame, step: want at least 1 sample, got {settings.frame} and {settings.step}")
    if not settings.frame <= fft <= _MOST_FFT:
        found.append(f"fft: want {settings.frame} to {_MOST_FFT} points, got {fft}")
    if rate_hz <= 0:
        found.append("rate_hz: a front end needs the rate of the samples")
    if not 0 <= settings.low_hz < (settings.high_hz or rate_hz / 2) <= rate_hz / 2:
        found.append(
            f"high_hz: want more than low_hz and at most half of {rate_hz:g}, got {settings.high_hz:g}"
        )
    if not 1 <= settings.bands <= fft:
        found.append(f"bands: want 1 to {fft}, got {settings.bands}")
    if settings.kind == "mfcc" and not 1 <= settings.coefficients <= settings.bands:
        found.append(f"coefficients: want 1 to {settings.bands}, got {settings.coefficients}")
    return found


def _taper(name: str, length: int) -> NDArray[np.float64]:
    """Return the weights of a frame's samples."""
    if name == "none":
        return np.ones(length)
    if name == "micro":
        return np.asarray(0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(length) + 0.5) / length))
    whole = length - 1 if name.endswith("symmetric") or name == "povey" else length
    turn = np.cos(2 * np.pi * np.arange(length) / max(whole, 1))
    if name.startswith("hamming"):
        return np.asarray(0.54 - 0.46 * turn)
    hann = 0.5 - 0.5 * turn
    return np.asarray(hann**0.85 if name == "povey" else hann)


def to_mel(hz: NDArray[np.float64], scale: str) -> NDArray[np.float64]:
    """Return frequencies on the mel scale: HTK's, or that of Slaney's Auditory Toolbox.

    >>> to_mel(np.array([1000.0]), "slaney").tolist(), to_mel(np.array([0.0]), "htk").tolist()
    ([15.0], [0.0])
    """
    if scale == "htk":
        return np.asarray(2595 * np.log10(1 + hz / 700))
    above = 15 + np.log(np.maximum(hz, 1000) / 1000) * 27 / math.log(6.4)
    return np.where(hz < 1000, hz * 3 / 200, above)


def from_mel(mel: NDArray[np.float64], scale: str) -> NDArray[np.float64]:
    """Return the inverse of ``to_mel``."""
    if scale == "htk":
        return np.asarray(700 * (10 ** (mel / 2595) - 1))
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * math.log(6.4) / 27))


def _mel_bank(settings: FrontEnd, fft: int, rate_hz: float, high_hz: float) -> NDArray[np.float64]:
    """Return the weights of the lines in each band, (fft / 2 + 1, bands): triangles that touch."""
    lines = np.arange(fft // 2 + 1) * rate_hz / fft
    low, high = to_mel(np.array([settings.low_hz, high_hz]), settings.scale)
    marks = np.linspace(low, high, settings.bands + 2)
    edges_hz = from_mel(marks, settings.scale)
    edges, at = (marks, to_mel(lines, settings.scale)) if settings.slopes == "mel" else (edges_hz, lines)
    rise = (at[:, None] - edges[:-2]) / np.diff(edges)[:-1]
    fall = (edges[2:] - at[:, None]) / np.diff(edges)[1:]
    bank = np.maximum(0, np.minimum(rise, fall))
    if settings.is_area:
        bank = bank * 2 / (edges_hz[2:] - edges_hz[:-2])
    return np.asarray(bank)


def _micro_bank(settings: FrontEnd, fft: int, rate_hz: float, high_hz: float) -> NDArray[np.float64]:
    """Return the weights of TensorFlow Lite Micro's filters, which ignore lines up to ``low_hz``."""
    lines = np.arange(fft // 2 + 1) * rate_hz / fft
    low, high = to_mel(np.array([settings.low_hz, high_hz]), "htk")
    step = (high - low) / (settings.bands + 1)
    middle = low + step * (1 + np.arange(settings.bands))
    distance = np.abs(to_mel(lines, "htk")[:, None] - middle) / step
    bank = np.maximum(0, 1 - distance)
    bank[: int(1.5 + settings.low_hz * fft / rate_hz)] = 0
    return np.asarray(bank / 64)  # a level is the root of the sum, over 8


def _logarithm(bands: NDArray[np.float64], settings: FrontEnd) -> Floats:
    values = np.maximum(bands + settings.offset, settings.floor)
    if settings.log == "none":
        return np.asarray(bands, np.float32)
    logs = np.log(values) if settings.log == "ln" else np.log10(values)
    if settings.log == "db":
        logs = logs * (20 if settings.is_magnitude else 10)
    if settings.top_db:
        logs = np.maximum(logs, logs.max(initial=-np.inf) - settings.top_db)
    return np.asarray(logs, np.float32)


def _dct(settings: FrontEnd) -> NDArray[np.float64]:
    """Return the cosines that make coefficients of bands, (bands, coefficients), liftered."""
    number, band = np.arange(settings.coefficients), np.arange(settings.bands)
    table = np.cos(np.pi * (band[:, None] + 0.5) * number / settings.bands) * math.sqrt(2 / settings.bands)
    if settings.dct == "ortho":
        table[:, 0] /= math.sqrt(2)
    if settings.lifter:
        table = table * (1 + settings.lifter / 2 * np.sin(np.pi * number / settings.lifter))
    return np.asarray(table)
