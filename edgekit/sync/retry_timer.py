"""The wait for the fleet's watermark before messages are sent again."""

from collections.abc import Callable

MIN_S = 3.0
MAX_S = 180.0
_GAIN, _DEVIATION_GAIN, _DEVIATIONS = 1 / 8, 1 / 4, 4
_MARGIN_S = 1.0
_JITTER = 0.5


class RetryTimer:
    """Estimates the delay of acknowledgements; the wait follows it, and doubles while none comes.

    Repeats would only add to the load of a slow fleet. So the wait is the smoothed delay plus four mean
    deviations, from ``min_s`` to ``MAX_S`` and jitter of up to half of it. It stays doubled until a message
    that was sent only once is acknowledged; of a message sent twice it is unknown which one was.

    >>> timer = RetryTimer(lambda: 0.0)
    >>> timer.wait_s
    3.0
    >>> timer.sample(20.0)
    >>> timer.wait_s
    60.0

    Source: RFC 6298, sections 2 and 5 (smoothing, deviation, doubling); section 3 for Karn's algorithm.
    """

    def __init__(self, random: Callable[[], float], min_s: float = MIN_S) -> None:
        self._random, self._min_s = random, min_s
        self._smoothed_s = self._deviation_s = 0.0
        self._doublings = 0
        self._estimate_s = min_s
        self._announced_s = 0.0
        self.wait_s = min_s
        """The current wait in seconds: ``min_s`` to ``1.5 * MAX_S``."""

    def sample(self, delay_s: float) -> None:
        """Add the delay between sending a message, once, and its acknowledgement."""
        if not self._smoothed_s:
            self._smoothed_s, self._deviation_s = delay_s, delay_s / 2
        else:
            off_s = abs(self._smoothed_s - delay_s)
            self._deviation_s += _DEVIATION_GAIN * (off_s - self._deviation_s)
            self._smoothed_s += _GAIN * (delay_s - self._smoothed_s)
        self._estimate_s = self._smoothed_s + max(_MARGIN_S, _DEVIATIONS * self._deviation_s)
        self.reset()

    def announced(self, delay_s: float) -> None:
        """Wait at least as long as the fleet says that it is behind."""
        if delay_s + self._announced_s > 0:
            self._announced_s = delay_s
            self._draw()

    def double(self) -> None:
        """Double the wait: nothing was acknowledged in time."""
        self._doublings = min(self._doublings + 1, 16)
        self._draw()

    def reset(self) -> None:
        """Undo the doubling for a new connection; keep the estimate."""
        self._doublings = 0
        self._draw()

    def _draw(self) -> None:
        estimate_s = max(self._estimate_s, self._min_s, self._announced_s + _MARGIN_S)
        wait_s = min(estimate_s * 2.0**self._doublings, MAX_S)
        self.wait_s = wait_s * (1.0 + _JITTER * self._random())
