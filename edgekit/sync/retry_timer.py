"""How long to wait for the fleet's watermark before something is sent again."""

from __future__ import annotations

from collections.abc import Callable

MIN_S = 3.0
MAX_S = 180.0
_GAIN, _DEVIATION_GAIN, _DEVIATIONS = 1 / 8, 1 / 4, 4
_MARGIN_S = 1.0
_JITTER = 0.5


class RetryTimer:
    """Estimates the delay of acknowledgements; the wait follows it, and doubles while none comes.

    A fleet that is slow must not be given more work by devices that send everything again. So the
    wait is the smoothed delay plus four mean deviations, and it keeps what doubling made of it until
    a message that was sent once is acknowledged: an acknowledgement of one that was sent twice does
    not say to which of the two it belongs.

    >>> timer = RetryTimer(lambda: 0.0)
    >>> timer.wait_s
    3.0
    >>> timer.sample(20.0)
    >>> timer.wait_s
    60.0

    Args:
        random: A number in [0, 1): devices that began to wait together do not send again together.
        min_s: The shortest wait, and the first one.
        max_s: The longest wait, before jitter of up to half of it.

    Source: RFC 6298, sections 2 and 5 (smoothing, deviation, doubling); section 3 for Karn's algorithm.
    """

    def __init__(self, random: Callable[[], float], min_s: float = MIN_S, max_s: float = MAX_S) -> None:
        self._random = random
        self._min_s, self._max_s = min_s, max_s
        self._smoothed_s = self._deviation_s = 0.0
        self._doublings = 0
        self._estimate_s = min_s
        self.wait_s = min_s
        """The wait that applies now, seconds: ``min_s`` to ``1.5 * max_s``."""

    def sample(self, delay_s: float) -> None:
        """Take the delay between sending a message, once, and its acknowledgement."""
        if not self._smoothed_s:
            self._smoothed_s, self._deviation_s = delay_s, delay_s / 2
        else:
            off_s = abs(self._smoothed_s - delay_s)
            self._deviation_s += _DEVIATION_GAIN * (off_s - self._deviation_s)
            self._smoothed_s += _GAIN * (delay_s - self._smoothed_s)
        self._estimate_s = self._smoothed_s + max(_MARGIN_S, _DEVIATIONS * self._deviation_s)
        self._doublings = 0
        self._draw()

    def double(self) -> None:
        """Wait twice as long: nothing was acknowledged in time."""
        self._doublings = min(self._doublings + 1, 16)
        self._draw()

    def reset(self) -> None:
        """Undo the doubling, and keep the estimate: a new connection may have lost what was under way."""
        self._doublings = 0
        self._draw()

    def _draw(self) -> None:
        wait_s = min(max(self._estimate_s, self._min_s) * 2.0**self._doublings, self._max_s)
        self.wait_s = wait_s * (1.0 + _JITTER * self._random())
