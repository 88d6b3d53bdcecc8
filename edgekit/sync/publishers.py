"""Links to brokers that a pipeline's sinks name, and the ledger of what left through them."""

from __future__ import annotations

import logging
from collections.abc import Callable

from edgekit.base.paths import state_dir
from edgekit.core.errors import ConfigError
from edgekit.sync.address import SystemClock, parse_url
from edgekit.sync.ledger import Ledger
from edgekit.sync.mqtt import Publisher

logger = logging.getLogger(__name__)


class Publishers:
    """The links of a run without an agent: a broker for each URL, and the ledger of what left.

    What may leave is decided before, by the sink, from ``[privacy] egress``.
    """

    def __init__(self, pipeline: str) -> None:
        self._pipeline = pipeline
        self._open: list[Publisher] = []
        self._ledger: Ledger | None = None

    def connect(self, url: str) -> Callable[[str, bytes], object]:
        """Return what publishes to a broker, without waiting for it.

        Raises:
            ConfigError: There is no URL, or it is not a broker's.
        """
        if not url:
            raise ConfigError(
                "sink 'mqtt': want url, got nothing", hint="only an agent has a link of its own"
            )
        address = parse_url(url)
        publisher = Publisher(url)
        self._open.append(publisher)
        if self._ledger is None:
            self._ledger = Ledger(state_dir() / "ledger.sqlite", SystemClock())
        ledger, destination = self._ledger, f"{address.host}:{address.port}"

        def publish(topic: str, payload: bytes) -> None:
            publisher.publish(topic, payload)
            ledger.add(self._pipeline, "message", destination, "passed", len(payload))

        return publish

    def close(self) -> None:
        """Let what waits leave, for a while, and close."""
        for publisher in self._open:
            publisher.close()
            if publisher.dropped:
                logger.warning("the broker was away too long: %d messages dropped", publisher.dropped)
        if self._ledger is not None:
            self._ledger.close()
