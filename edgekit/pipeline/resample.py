"""Sound at another sampling rate, block by block."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_ZEROS = 16
"""Zero crossings of the filter on each side: the stop band is 60 dB down a tenth above the cut-off."""
_BETA = 8.0


def filter_values(from_hz: int, to_hz: int) -> int:
    """Return how many values a ``Resampler`` between two rates has: many, where they share no large factor.

    >>> filter_values(44_100, 16_000), filter_values(44_101, 16_000)
    (15040, 1504000)
    """
    up, _, half = _plan(from_hz, to_hz)
    return up * 2 * half


def _plan(from_hz: int, to_hz: int) -> tuple[int, int, int]:
    """Return by how much to go up, by how much down, and half the length of the filter in inputs."""
    shared = math.gcd(from_hz, to_hz)
    up, down = to_hz // shared, from_hz // shared
    return up, down, math.ceil(_ZEROS / _cutoff(up, down))


def _cutoff(up: int, down: int) -> float:
    return 0.95 * min(1.0, up / down)


class Resampler:
    """Turns blocks of one rate into blocks of another, as if they were one.

    >>> Resampler(48_000, 16_000).push(np.zeros((480, 1), np.float32)).shape[1]
    1

    Args:
        from_hz: The rate of what comes.
        to_hz: The rate of what is given.

    Source: polyphase filter with a Kaiser window, Crochiere and Rabiner, Multirate Digital Signal Processing,
    1983, chapter 4.
    """

    def __init__(self, from_hz: int, to_hz: int) -> None:
        self._up, self._down, half = _plan(from_hz, to_hz)
        cutoff = _cutoff(self._up, self._down)
        self._taps = 2 * half
        offsets = np.arange(self._up)[:, None] / self._up + np.arange(self._taps)[None, :] - half + 1
        shape = np.i0(_BETA * np.sqrt(np.clip(1 - (offsets / half) ** 2, 0, None))) / np.i0(_BETA)
        bank = cutoff * np.sinc(cutoff * offsets) * shape
        self._bank = (bank / bank.sum(axis=1, keepdims=True)).astype(np.float32)[:, ::-1]
        self._rest: NDArray[np.float32] | None = None
        self._next = 0
        """The next output, in steps of 1 / up of an input, from the first sample of ``_rest``."""

    def push(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the samples that a block completes, (samples, channels), float32.

        Args:
            block: Shape (samples, channels), float32.
        """
        if self._rest is None:  # silence before the beginning
            self._rest = np.zeros((self._taps // 2, block.shape[1]), np.float32)
        known = np.concatenate([self._rest, block])
        last = (len(known) - self._taps) * self._up + self._up - 1
        if last < self._next:
            self._rest = known
            return np.zeros((0, block.shape[1]), np.float32)
        steps = np.arange(self._next, last + 1, self._down)
        first, phase = steps // self._up, steps % self._up
        windows = np.lib.stride_tricks.sliding_window_view(known, self._taps, axis=0)
        out = np.einsum("mct,mt->mc", windows[first], self._bank[phase])
        after = int(steps[-1]) + self._down
        used = min(after // self._up, len(known))
        self._next = after - used * self._up
        self._rest = known[used:]
        return np.asarray(out, np.float32)
