"""The constant-velocity Kalman filter of many boxes at once.

A box is measured as centre x, centre y, aspect (width / height) and height; its state has these and their
velocities. All noise is independent and there is one measurement for each coordinate, so the filter of eight
dimensions falls apart into four of two, exactly: no matrix is inverted.

Source: Wojke, Bewley, Paulus, "Simple online and realtime tracking with a deep association metric" (arXiv
1703.07402), 2.1, which ByteTrack uses. The noise is that of their published tracker: in shares of the height.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_POSITION, _VELOCITY = 1 / 20, 1 / 160
"""Standard deviations for one frame, as shares of the box's height."""
_ASPECT, _ASPECT_VELOCITY, _ASPECT_MEASURED = 1e-2, 1e-5, 1e-1
"""Those of the aspect, which has no unit."""
_BY_HEIGHT = np.array([True, True, False, True])


class Boxes:
    """The filters of n boxes; none at first.

    >>> boxes = Boxes()
    >>> boxes.append(np.array([[10.0, 10, 0.5, 20]]))
    >>> for x in (12.0, 14.0, 16.0):
    ...     boxes.advance(1.0)
    ...     boxes.correct(np.array([0]), np.array([[x, 10, 0.5, 20]]))
    >>> boxes.advance(1.0)
    >>> abs(boxes.place[0, 0] - 18.0) < 0.5
    True
    """

    def __init__(self) -> None:
        self._rows: Floats = np.empty((0, 5, 4))
        """Of each box: place, velocity, variance of place, covariance of both, variance of velocity."""

    @property
    def place(self) -> Floats:
        """Centre x, centre y, aspect, height of each box, shape (n, 4)."""
        return self._rows[:, 0]

    def keep(self, rows: NDArray[np.intp]) -> None:
        """Keep only some of the boxes, in this order."""
        self._rows = self._rows[rows]

    def append(self, measured: Floats) -> None:
        """Add boxes that were seen once, shape (k, 4): they may move anywhere."""
        height, zeros = measured[:, 3:], np.zeros_like(measured)
        place = np.where(_BY_HEIGHT, 2 * _POSITION * height, _ASPECT)
        velocity = np.where(_BY_HEIGHT, 10 * _VELOCITY * height, _ASPECT_VELOCITY)
        new = np.stack([measured, zeros, place**2, zeros, velocity**2], axis=1)
        self._rows = np.concatenate([self._rows, new])

    def advance(self, frames: float) -> None:
        """Move every box by its velocity over so many frames, and be less sure of it."""
        place, velocity, pp, pv, vv = (self._rows[:, part] for part in range(5))
        height = place[:, 3:]
        noise = np.where(_BY_HEIGHT, _POSITION * height, _ASPECT) ** 2
        noise_velocity = np.where(_BY_HEIGHT, _VELOCITY * height, _ASPECT_VELOCITY) ** 2
        place += frames * velocity
        pp += 2 * frames * pv + frames**2 * vv + frames * noise
        pv += frames * vv
        vv += frames * noise_velocity

    def correct(self, rows: NDArray[np.intp], measured: Floats) -> None:
        """Take the measurements of some boxes in, shape (k, 4)."""
        place, velocity, pp, pv, vv = (self._rows[rows, part] for part in range(5))
        spread = pp + _measured_noise(place)
        gain, gain_velocity = pp / spread, pv / spread
        surprise = measured - place
        corrected = (place + gain * surprise, velocity + gain_velocity * surprise)
        left = (pp - gain * pp, pv - gain * pv, vv - gain_velocity * pv)
        self._rows[rows] = np.stack([*corrected, *left], axis=1)

    def distances(self, rows: NDArray[np.intp], measured: Floats) -> Floats:
        """Return the squared Mahalanobis distances of k measurements to some boxes, shape (rows, k)."""
        place, pp = self._rows[rows, 0], self._rows[rows, 2]
        surprise = measured[None] - place[:, None]
        found: Floats = (surprise**2 / (pp + _measured_noise(place))[:, None]).sum(axis=2)
        return found

    def stop_growing(self, rows: NDArray[np.intp]) -> None:
        """Let boxes that are not seen keep their size while they move on, as ByteTrack's do."""
        self._rows[rows, 1, 3] = 0.0

    def corners(self) -> Floats:
        """Return left, top, right, bottom of each box, shape (n, 4)."""
        x, y, aspect, height = self.place.T
        half_width, half_height = aspect * height / 2, height / 2
        return np.stack([x - half_width, y - half_height, x + half_width, y + half_height], axis=1)


def _measured_noise(place: Floats) -> Floats:
    noise: Floats = np.where(_BY_HEIGHT, _POSITION * place[:, 3:], _ASPECT_MEASURED) ** 2
    return noise


def measured_of(corners: Floats) -> Floats:
    """Return centre x, centre y, aspect, height of boxes given as left, top, right, bottom, shape (n, 4)."""
    left, top, right, bottom = corners.reshape(-1, 4).T
    height = np.maximum(bottom - top, 1e-3)
    return np.stack([(left + right) / 2, (top + bottom) / 2, (right - left) / height, height], axis=1)
