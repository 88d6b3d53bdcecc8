"""Slows down whoever tries secrets: an address that was refused often has to wait before it may try again.

An address may be refused ten times; then each refusal doubles its wait, from one second to a minute. It is
forgotten ten minutes after its last refusal. A secret that this address has used with success before is
not delayed, so that nobody can lock out a neighbour behind the same address.
"""

from __future__ import annotations

import hashlib
import ipaddress
import math
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from fastapi import HTTPException, Request

Kind = Literal["token", "login", "enrolment", "cameras"]
Key = TypeVar("Key")
Value = TypeVar("Value")
FREE_REFUSALS = 10
MAX_WAIT_S = 60.0
FORGET_S = 600.0
MAX_ADDRESSES = 10_000
"""Addresses and successful secrets remembered; beyond it the least recent is forgotten."""


@dataclass
class _Record:
    """The refusals of one address, and when it may try again (monotonic seconds)."""

    refusals: int = 0
    last_s: float = 0.0
    free_from_s: float = 0.0


class Throttle:
    """The refusals of all addresses; safe from any thread.

    Args:
        now_s: A monotonic clock, in seconds.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._lock = threading.Lock()
        self._records: OrderedDict[str, _Record] = OrderedDict()
        self._good: OrderedDict[tuple[str, bytes], None] = OrderedDict()
        self.refused: Counter[str] = Counter({"token": 0, "login": 0, "enrolment": 0, "cameras": 0})
        """Refusals since the start, by what was tried."""
        self.delayed = 0
        """Attempts that were not even looked at, because their address had to wait."""

    def admit(self, address: str, secret: str) -> None:
        """Let an attempt pass.

        Raises:
            HTTPException: The address has to wait (429, with ``Retry-After``).
        """
        with self._lock:
            record = self._records.get(address)
            if record is None or (address, _digest(secret)) in self._good:
                return
            wait_s = record.free_from_s - self._now_s()
            if wait_s <= 0:
                return
            self.delayed += 1
        seconds = math.ceil(wait_s)
        raise HTTPException(
            429,
            f"Too many refused attempts from this address: wait {seconds} s",
            headers={"Retry-After": str(seconds)},
        )

    def accept(self, address: str, secret: str) -> None:
        """Remember that a secret was right."""
        with self._lock:
            _remember(self._good, (address, _digest(secret)), None)

    def refuse(self, address: str, kind: Kind) -> None:
        """Count a secret that was wrong; beyond ten the address has to wait."""
        with self._lock:
            self.refused[kind] += 1
            now_s = self._now_s()
            record = self._records.get(address)
            if record is None or now_s - record.last_s > FORGET_S:
                record = _Record()
            record.refusals += 1
            record.last_s = now_s
            if (beyond := record.refusals - FREE_REFUSALS) > 0:
                record.free_from_s = now_s + min(2.0 ** min(beyond - 1, 10), MAX_WAIT_S)
            _remember(self._records, address, record)


def throttle_of(request: Request) -> Throttle:
    """Return the throttle of the application that answers a request."""
    throttle: Throttle = request.app.state.throttle
    return throttle


def address_of(request: Request) -> str:
    """Return where a request comes from: an IPv4 address, or the /64 network of an IPv6 address."""
    host = request.client.host if request.client else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address) and not address.is_loopback:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return host


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="replace")).digest()


def _remember(table: OrderedDict[Key, Value], key: Key, value: Value) -> None:
    table[key] = value
    table.move_to_end(key)
    while len(table) > MAX_ADDRESSES:
        table.popitem(last=False)
