"""A mergeable histogram of positive numbers: true percentiles of a fleet without raw data.

Source: OpenTelemetry data model, "ExponentialHistogram" (base-2 buckets). A bucket ``i`` of scale
``s`` holds values in ``(2**(i / 2**s), 2**((i + 1) / 2**s)]``; merging adds integers, so it is exact
and independent of order. At scale 5 a quantile is within 1.1 % of the true value.
"""

import math

import msgspec

from edgekit.core.errors import ProtocolError

SCALE = 5
MAX_BUCKETS = 512
_SMALLEST = 2.0**-40
_LARGEST = 2.0**60


class Sketch(msgspec.Struct, frozen=True):
    """The wire form of a histogram: dense counts from bucket ``offset`` on."""

    scale: int
    zero: int
    offset: int
    counts: list[int]
    total: float
    low: float
    high: float


def check(sketch: Sketch) -> None:
    """Check that a wire form can be a histogram.

    Raises:
        ProtocolError: Counts are negative or too many, or a number is out of range.
    """
    if not -10 <= sketch.scale <= 20 or len(sketch.counts) > 1 << 16:
        raise ProtocolError(f"sketch: scale {sketch.scale} with {len(sketch.counts)} buckets")
    if sketch.zero < 0 or min(sketch.counts, default=0) < 0:
        raise ProtocolError("sketch: a count is negative")
    if not all(math.isfinite(number) for number in (sketch.total, sketch.low, sketch.high)):
        raise ProtocolError("sketch: a number is not finite")
    reach = math.ceil(64 * 2.0**sketch.scale)
    if not -reach <= sketch.offset <= reach - len(sketch.counts):
        raise ProtocolError(f"sketch: buckets from {sketch.offset} are out of range")


class Histogram:
    """Counts positive numbers in buckets whose width grows with the value.

    >>> h = Histogram()
    >>> for x in range(1, 1001):
    ...     h.add(x)
    >>> abs(h.quantile(0.5) - 500) / 500 < 0.011
    True
    """

    def __init__(self, scale: int = SCALE) -> None:
        self.scale = scale
        self.zero = 0
        self.total = 0.0
        self.low = math.inf
        self.high = -math.inf
        self._counts: dict[int, int] = {}

    @property
    def count(self) -> int:
        """How many numbers were added."""
        return self.zero + sum(self._counts.values())

    def add(self, value: float, times: int = 1) -> None:
        """Count a number; one that is not positive counts as zero, one that is not finite is ignored."""
        if not math.isfinite(value):
            return
        self.total += value * times
        if value < self.low:  # noqa: PLR1730 - a call less, for each stage of each frame
            self.low = value
        if value > self.high:  # noqa: PLR1730
            self.high = value
        if value <= _SMALLEST:
            self.zero += times
            return
        index = math.ceil(math.log2(min(value, _LARGEST)) * 2.0**self.scale) - 1
        self._counts[index] = self._counts.get(index, 0) + times
        if len(self._counts) > MAX_BUCKETS:
            self._halve()

    def _halve(self) -> None:
        """Join neighbouring buckets: half the scale's resolution, so that memory stays bounded."""
        self.scale -= 1
        joined: dict[int, int] = {}
        for index, number in self._counts.items():
            joined[index >> 1] = joined.get(index >> 1, 0) + number
        self._counts = joined

    def merge(self, other: "Histogram") -> None:
        """Add what another histogram counted."""
        buckets, scale = dict(other._counts), other.scale  # noqa: SLF001 - its own class
        while self.scale > scale:
            self._halve()
        for index, number in buckets.items():
            coarse = index >> (scale - self.scale)
            self._counts[coarse] = self._counts.get(coarse, 0) + number
        self.zero += other.zero
        self.total += other.total
        self.low = min(self.low, other.low)
        self.high = max(self.high, other.high)
        while len(self._counts) > MAX_BUCKETS:
            self._halve()

    def quantile(self, q: float) -> float:
        """Return the value below which a share ``q`` (0 to 1) of the numbers is; 0 when there are none."""
        if not (count := self.count):
            return 0.0
        rank, seen = q * (count - 1), self.zero
        if rank < seen:
            return max(min(self.low, 0.0), 0.0)
        for index in sorted(self._counts):
            seen += self._counts[index]
            if rank < seen:
                middle = float(2.0 ** ((index + 0.5) / 2.0**self.scale))
                return min(max(middle, self.low), self.high)
        return self.high

    def buckets(self) -> list[tuple[float, int]]:
        """Return the middle of each bucket and how many numbers are in it, ascending."""
        width = 2.0**self.scale
        return [(2.0 ** ((index + 0.5) / width), self._counts[index]) for index in sorted(self._counts)]

    def count_above(self, value: float) -> int:
        """Return how many numbers are certainly above ``value``: those in buckets that begin there.

        >>> h = Histogram()
        >>> for x in (1, 2, 30, 40):
        ...     h.add(x)
        >>> h.count_above(10)
        2
        """
        if value <= 0:
            return sum(self._counts.values())
        lowest = math.ceil(math.log2(min(max(value, _SMALLEST), _LARGEST)) * 2.0**self.scale)
        return sum(number for index, number in self._counts.items() if index >= lowest)

    def to_wire(self) -> Sketch:
        """Return the wire form."""
        if not self._counts:
            return Sketch(self.scale, self.zero, 0, [], self.total, 0.0, 0.0)
        first, last = min(self._counts), max(self._counts)
        counts = [self._counts.get(index, 0) for index in range(first, last + 1)]
        return Sketch(self.scale, self.zero, first, counts, self.total, self.low, self.high)

    @classmethod
    def from_wire(cls, sketch: Sketch) -> "Histogram":
        """Return the histogram of a wire form.

        Raises:
            ProtocolError: Counts are negative or too many, or a number is out of range.
        """
        check(sketch)
        histogram = cls(sketch.scale)
        histogram.zero = sketch.zero
        histogram._counts = {sketch.offset + i: n for i, n in enumerate(sketch.counts) if n}
        histogram.total = sketch.total
        if histogram.count:
            histogram.low, histogram.high = sketch.low, sketch.high
        while len(histogram._counts) > MAX_BUCKETS:
            histogram._halve()
        return histogram
