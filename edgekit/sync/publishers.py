"""The servers that one pipeline's sinks name: a link each, behind the gate, closed by one owner."""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import msgspec

from edgekit.core.addresses import shown
from edgekit.core.egress import ENVELOPE
from edgekit.core.errors import ConfigError
from edgekit.core.ports import Session, nothing
from edgekit.sync.address import Address, Tls, parse_url
from edgekit.sync.gate import Books, Gate, Packed
from edgekit.sync.publisher import Publisher
from edgekit.sync.webhook import Target, Webhook

logger = logging.getLogger(__name__)

_COUNTS = ("sent", "unsent", "dropped", "refused")
_CLOUD_EVENT = "application/cloudevents+json; charset=utf-8"


class Channel:
    """A sink's way to one broker: ``channel(topic, document)`` sends through the gate, without waiting."""

    def __init__(self, publisher: Publisher, gate: Gate, close: Callable[[], None]) -> None:
        self._publisher, self._gate, self._close = publisher, gate, close

    @property
    def is_ready(self) -> bool:
        """Whether the broker is connected."""
        return self._publisher.state().is_connected

    def __call__(
        self,
        topic: str,
        document: Mapping[str, Any],
        *,
        retain: bool = False,
        on_kept: Callable[[], object] = nothing,
    ) -> None:
        """Send what may leave of a document; ``on_kept`` is called once it is acknowledged, or given up."""
        self._publish(topic, self._gate.pack(document), retain=retain, on_kept=on_kept)

    def raw(self, topic: str, payload: bytes, data_class: str = ENVELOPE, *, retain: bool = False) -> None:
        """Send a payload that is all of one class, if that may leave."""
        self._publish(topic, self._gate.whole(payload, data_class), retain=retain)

    def _publish(
        self, topic: str, packed: Packed | None, *, retain: bool, on_kept: Callable[[], object] = nothing
    ) -> None:
        if packed is None:
            on_kept()
            return
        body, gate = packed, self._gate
        self._publisher.publish(
            topic, packed.payload, lambda: gate.enter(body), retain=retain, on_kept=on_kept
        )

    def settle(self) -> None:
        """Wait a while until the first connect has succeeded or failed."""
        self._publisher.settle()

    def close(self) -> None:
        """Wait a while for queued messages to leave and end the link, if it is this channel's own."""
        self._close()


class Way:
    """Decides what a sink with a protocol of its own may send to one destination."""

    def __init__(self, gate: Gate, close: Callable[[], None]) -> None:
        self._gate, self._close = gate, close

    def permit(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """Return what may leave of a document, and enter in the ledger what does and what does not."""
        packed = self._gate.pack(document)
        if packed is None:
            return {}
        self._gate.enter(packed)
        kept: dict[str, Any] = msgspec.json.decode(packed.payload)
        return kept

    def close(self) -> None:
        """Keep the last counters; safe to call twice."""
        self._close()


class Publishers:
    """Opens one link for each broker, however often it is requested, and closes them all.

    ``egress``: the classes of ``[privacy] egress``; ``books`` records what leaves and what is refused, and is
    closed by its own owner.
    """

    def __init__(self, pipeline: str, egress: Collection[str], books: Books) -> None:
        self._pipeline, self._egress, self._books = pipeline, egress, books
        self._shared: dict[tuple[Address, Path | None], Publisher] = {}
        self._own: list[tuple[str, Publisher]] = []
        self._past: dict[str, Counter[str]] = {}
        """The counts of links of their own that were closed, by destination."""
        self._webhooks: dict[Target, Webhook] = {}
        self._direct: list[tuple[str, Callable[[], dict[str, Any]]]] = []

    def connect(
        self,
        url: str,
        *,
        ca: Path | None = None,
        user: str = "",
        password: str = "",
        session: Session | None = None,
    ) -> Channel:
        """Return a way to a broker. With a ``session`` it is a link of its own, which the caller closes.

        ``url`` is ``mqtt://host:port`` or ``mqtts://host:port``, optionally with ``user:password@``, which
        ``user`` and ``password`` replace; ``ca`` None trusts the system's.

        Raises:
            ConfigError: There is no URL, it is not a broker's, or a file cannot be read.
        """
        if not url:
            raise ConfigError("url: want a broker's, got nothing", hint="only an agent has a link of its own")
        address = parse_url(url)
        if ca is not None and not address.is_tls:
            raise ConfigError(f"ca: want it with mqtts://, got {shown(url)!r}")
        if user:
            address = msgspec.structs.replace(address, user=user)
        if password:
            address = msgspec.structs.replace(address, password=password)
        gate = Gate(self._pipeline, self._egress, self._books, address.destination)
        tls = Tls(ca) if ca else None
        if session is not None:
            return self._own_channel(address, tls, session, gate)
        if (address, ca) not in self._shared:
            self._shared[address, ca] = Publisher(address, tls)
        return Channel(self._shared[address, ca], gate, lambda: None)

    def _own_channel(self, address: Address, tls: Tls | None, session: Session, gate: Gate) -> Channel:
        will = gate.whole(session.will[1], ENVELOPE)
        if will is None:
            raise ConfigError("privacy.egress: names nothing, so nothing may leave")

        def on_ready() -> None:
            gate.enter(will)  # the broker has it from now on
            session.on_ready()

        publisher = Publisher(address, tls, session=msgspec.structs.replace(session, on_ready=on_ready))
        row = (address.destination, publisher)
        self._own.append(row)

        def close() -> None:
            publisher.close()
            if row in self._own:
                self._own.remove(row)
                self._keep(row[0], msgspec.to_builtins(publisher.state()))

        return Channel(publisher, gate, close)

    def post(
        self, url: str, queue: Path, *, ca: Path | None = None, secret: str = "", token: str = ""
    ) -> Callable[[str, Mapping[str, Any], Mapping[str, Any], Callable[[], object]], None]:
        """Return ``send(id, envelope, document, on_kept)``: a CloudEvent to a URL, by a queue on disk.

        What may leave of the document is the event's ``data``. ``queue``: the folder of the queue's file.
        ``on_kept`` is called once the event is on disk, or given up.
        ``secret`` signs, ``token`` is a bearer token; ``ca`` None trusts the system's.

        Raises:
            ConfigError: The URL or the CA cannot be used.
            StorageError: The queue cannot be opened.
        """
        target = Target(url, _CLOUD_EVENT, ca, secret, token)
        gate = Gate(self._pipeline, self._egress, self._books, target.destination)
        if target not in self._webhooks:
            name = hashlib.sha256(url.encode()).hexdigest()[:16]
            self._webhooks[target] = Webhook(
                target, queue / f"webhook-{name}.sqlite", gate.enter, gate.permits
            )
        webhook = self._webhooks[target]

        def send(
            message_id: str,
            envelope: Mapping[str, Any],
            document: Mapping[str, Any],
            on_kept: Callable[[], object] = nothing,
        ) -> None:
            packed = gate.pack(document, lambda kept: {**envelope, "data": kept})
            if packed is None:
                on_kept()
            else:
                webhook.put(message_id, packed, on_kept)

        return send

    def direct(self, destination: str, state: Callable[[], dict[str, Any]]) -> Way:
        """Return the gate for a sink that speaks another protocol; ``state()`` has its counters."""
        row = (destination, state)
        self._direct.append(row)

        def close() -> None:
            if row in self._direct:
                self._direct.remove(row)
                self._keep(destination, state())

        return Way(Gate(self._pipeline, self._egress, self._books, destination), close)

    def _keep(self, destination: str, state: Mapping[str, Any]) -> None:
        counts = {key: state[key] for key in _COUNTS}
        self._past.setdefault(destination, Counter()).update(counts)

    def states(self) -> list[dict[str, Any]]:
        """Return the message counters of each server."""
        links = [(address.destination, publisher) for (address, _), publisher in self._shared.items()]
        rows = [
            {"destination": destination, **msgspec.to_builtins(link.state())}
            for destination, link in [*links, *self._own]
        ]
        rows += [
            {"destination": hook.destination, **msgspec.to_builtins(hook.state())}
            for hook in self._webhooks.values()
        ]
        rows += [{"destination": destination, **state()} for destination, state in self._direct]
        for destination, past in self._past.items():
            row = next((row for row in rows if row["destination"] == destination), None)
            if row is None:
                rows.append({"destination": destination, "is_connected": False, **past, "problem": ""})
            else:
                row |= {key: row[key] + past[key] for key in _COUNTS}
        return rows

    def close(self) -> None:
        """Wait a while for queued messages to leave, and close; safe to call twice."""
        for publisher in [*self._shared.values(), *(publisher for _, publisher in self._own)]:
            publisher.close()
        for webhook in self._webhooks.values():
            webhook.close()
        for state in self.states():
            if lost := state["unsent"] + state["dropped"] + state["refused"]:
                why = f": {state['problem']}" if state["problem"] else ""
                logger.warning("%s did not take %d messages%s", state["destination"], lost, why)
