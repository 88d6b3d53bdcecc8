"""Whether the fleet manager does its work, as its parts report it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Health:
    """State of the connections, and counters.

    Args:
        is_connected: Whether the fleet manager is connected to the broker.
        is_ingesting: Whether the thread that stores messages from devices runs.
        problems: What keeps the fleet manager from its work, for people; empty if it is ready.
        broker_restarts: How often the embedded broker ended by itself and was started again.
        counters: Ingest counters since the start: messages, records (new ones), repeated, refused,
            requests, expired, store_failures, hook_failures, downlink_dropped, connections_refused.
    """

    is_connected: bool
    is_ingesting: bool
    problems: tuple[str, ...]
    broker_restarts: int
    counters: dict[str, int]
