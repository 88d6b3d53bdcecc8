"""The link to the broker; the only file that imports the MQTT client."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgekit.core import wire
from edgekit.core.ports import Clock
from edgekit.sync.outbox import Outbox


@dataclass(frozen=True)
class Tls:
    """Files of the device's identity: whom it trusts, and how it proves who it is."""

    ca: Path
    certificate: Path
    key: Path


@dataclass(frozen=True)
class Handlers:
    """What the link tells its owner, on the link's thread: each must return soon.

    ``birth`` gives the state to announce (``online``, ``boot``, ``conn`` are filled in);
    ``reported`` the document for ``up/reported``; ``desired`` takes the exact bytes of a desired
    state, unverified; ``command`` a command, maybe for the second time; ``connection`` whether the
    link is up.
    """

    birth: Callable[[], wire.Birth]
    reported: Callable[[], wire.Reported]
    desired: Callable[[bytes], None]
    command: Callable[[wire.Command], None]
    connection: Callable[[bool], None]


class Link:
    """Keeps one connection to the broker and empties the outbox through it.

    Args:
        broker_url: ``mqtts://host:port`` or ``mqtt://host:port``.
        device: This device's id.
        outbox: What to send.
        handlers: Who listens.
        tls: Identity; needed for ``mqtts``.
        clock: Times in messages.
        random: A number in [0, 1) for jitter.
        first_delay_s: The first connect waits a random part of this.
        max_delay_s: The longest a reconnect waits.
    """

    def __init__(
        self,
        broker_url: str,
        device: str,
        outbox: Outbox,
        handlers: Handlers,
        *,
        tls: Tls | None = None,
        clock: Clock | None = None,
        random: Callable[[], float] | None = None,
        first_delay_s: float = 1.0,
        max_delay_s: float = 300.0,
    ) -> None:
        raise NotImplementedError

    def start(self) -> None:
        """Start the link's thread."""
        raise NotImplementedError

    def stop(self, timeout_s: float = 5.0) -> None:
        """Say goodbye (``online`` false) if connected, and end the thread; safe to call twice."""
        raise NotImplementedError

    @property
    def is_connected(self) -> bool:
        """Whether the link is up."""
        raise NotImplementedError

    def report(self) -> None:
        """Send ``up/reported`` soon (now if connected, else on connect)."""
        raise NotImplementedError

    def announce(self) -> None:
        """Send ``up/state`` again soon, because what it says changed."""
        raise NotImplementedError

    def request(
        self,
        kind: Literal["time", "desired", "chunk", "renew"],
        args: dict[str, Any],
        timeout_s: float = 10.0,
    ) -> wire.Response | wire.Chunk:
        """Ask the fleet and wait for its answer (not on the link's thread).

        Raises:
            LinkError: Not connected, or no answer in time.
            ServerError: The fleet answered with an error.
        """
        raise NotImplementedError

    def counters(self) -> dict[str, int]:
        """Return what was counted: connects, sent, resent, malformed, acks."""
        raise NotImplementedError


class Publisher:
    """Publishes to one broker and subscribes to nothing: the mqtt sink of ``edgekit run``.

    Connects in the background; while the broker is away, up to ``max_waiting`` messages wait, and
    the oldest are dropped and counted.
    """

    def __init__(
        self, url: str, *, client_id: str = "", tls: Tls | None = None, max_waiting: int = 1000
    ) -> None:
        raise NotImplementedError

    def publish(self, topic: str, body: bytes, *, retain: bool = False) -> None:
        """Send a message at QoS 1, without waiting."""
        raise NotImplementedError

    def close(self, timeout_s: float = 5.0) -> None:
        """Give what waits ``timeout_s`` to leave, and close; safe to call twice."""
        raise NotImplementedError
