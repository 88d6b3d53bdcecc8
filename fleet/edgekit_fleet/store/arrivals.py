"""Durable messages as they arrive from devices: batches, and what of them cannot be used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.core import wire


@dataclass(frozen=True)
class Refused:
    """A message, or one record of a batch, that cannot be used; kept for diagnosis."""

    device: str
    topic: str
    arrived_ms: int
    reason: str
    body: bytes


@dataclass(frozen=True)
class Arrived:
    """One batch as it arrived: messages ``seq0`` to ``seq0 + count - 1`` of one outbox.

    Each of them is either in ``records`` or in ``refused``, with its sequence number. ``lowest`` is the
    lowest number that the device can still send, at most ``seq0``; 0 from one that does not say.
    """

    device: str
    boot: str
    seq0: int
    count: int
    records: Sequence[tuple[int, wire.Record]]
    refused: Sequence[tuple[int, Refused]]
    arrived_ms: int
    sent_mono_ns: int = 0
    sent_unix_ms: int = 0
    lowest: int = 0
