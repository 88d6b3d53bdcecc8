"""The brokers that one pipeline's sinks name: a link each, behind the gate, closed by one owner."""

import logging
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import msgspec

from edgekit.core.errors import ConfigError
from edgekit.sync.address import Address, Tls, parse_url
from edgekit.sync.gate import Books, Gate
from edgekit.sync.publisher import Publisher

logger = logging.getLogger(__name__)


class Publishers:
    """Opens one link for each broker, however often it is requested, and closes them all.

    ``egress``: the classes of ``[privacy] egress``; ``books`` records what leaves and what is refused, and is
    closed by its own owner.
    """

    def __init__(self, pipeline: str, egress: Collection[str], books: Books) -> None:
        self._pipeline, self._egress, self._books = pipeline, egress, books
        self._open: dict[tuple[Address, Path | None], Publisher] = {}

    def connect(
        self, url: str, *, ca: Path | None = None, user: str = "", password_file: Path | None = None
    ) -> Callable[[str, Mapping[str, Any]], None]:
        """Return a function that sends a document to a topic, through the gate, without waiting.

        ``url`` is ``mqtt://host:port`` or ``mqtts://host:port``, optionally with ``user:password@``, which
        ``user`` and the first line of ``password_file`` replace; ``ca`` None trusts the system's.

        Raises:
            ConfigError: There is no URL, it is not a broker's, or a file cannot be read.
        """
        if not url:
            raise ConfigError(
                "sink 'mqtt': want url, got nothing", hint="only an agent has a link of its own"
            )
        address = parse_url(url)
        if ca is not None and not address.is_tls:
            raise ConfigError(f"sink 'mqtt': ca: want it with mqtts://, got {url!r}")
        if user:
            address = msgspec.structs.replace(address, user=user)
        if password_file is not None:
            address = msgspec.structs.replace(address, password=_first_line(password_file))
        if (address, ca) not in self._open:
            self._open[address, ca] = Publisher(address, Tls(ca) if ca else None)
        publisher = self._open[address, ca]
        gate = Gate(self._pipeline, self._egress, self._books, address.destination)

        def send(topic: str, document: Mapping[str, Any]) -> None:
            packed = gate.pack(document)
            if packed is not None:
                publisher.publish(topic, *packed)

        return send

    def states(self) -> list[dict[str, Any]]:
        """Return the message counters of each broker."""
        return [
            {"destination": address.destination, **msgspec.to_builtins(publisher.state())}
            for (address, _), publisher in self._open.items()
        ]

    def close(self) -> None:
        """Wait a while for queued messages to leave, and close; safe to call twice."""
        for publisher in self._open.values():
            publisher.close()
        for state in self.states():
            if lost := state["unsent"] + state["dropped"] + state["refused"]:
                why = f": {state['problem']}" if state["problem"] else ""
                logger.warning("broker %s did not take %d messages%s", state["destination"], lost, why)


def _first_line(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as cause:
        raise ConfigError(f"sink 'mqtt': password_file: {path} cannot be read: {cause}") from cause
