"""How much one device may send: a flood must not take the place of what other devices sent."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

BURST_MESSAGES, MESSAGES_PER_S = 2000, 100.0
BURST_BYTES, BYTES_PER_S = 64 << 20, 2.0 * (1 << 20)
"""A device that was away for weeks empties a full outbox at once; after that, two megabytes a second."""
_MAX_KNOWN = 20_000


@dataclass(slots=True)
class _Bucket:
    messages: float
    bytes: float
    at_ms: int


class Quota:
    """Counts the messages and bytes of each device, with a burst that refills.

    Of at most 20,000 devices, those heard last.
    """

    def __init__(self) -> None:
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def allows(self, device: str, size: int, now_ms: int) -> bool:
        """Take one message of ``size`` bytes from a device's quota; False if nothing is left of it."""
        bucket = self._buckets.pop(device, None) or _Bucket(BURST_MESSAGES, BURST_BYTES, now_ms)
        self._buckets[device] = bucket
        if len(self._buckets) > _MAX_KNOWN:
            self._buckets.popitem(last=False)
        passed_s = max(now_ms - bucket.at_ms, 0) / 1000
        bucket.messages = min(bucket.messages + passed_s * MESSAGES_PER_S, BURST_MESSAGES)
        bucket.bytes = min(bucket.bytes + passed_s * BYTES_PER_S, BURST_BYTES)
        bucket.at_ms = now_ms
        if bucket.messages < 1 or bucket.bytes < size:
            return False
        bucket.messages -= 1
        bucket.bytes -= size
        return True
