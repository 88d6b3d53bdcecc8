"""The egress gate: the only way out for data; what is not allowed never reaches the outbox.

``edgekit.core.egress`` says what may leave. Refusals are recorded here; what leaves is recorded when it is
handed to the network, with its bytes by class.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Protocol, TypeVar

import msgspec

from edgekit.core import wire
from edgekit.core.egress import ENVELOPE, HEALTH, NAMES, UNKNOWN, class_of, passing, permitted, sizes
from edgekit.core.errors import ConfigError, ProtocolError
from edgekit.sync.ledger import Decision

FLEET = "fleet"
"""The destination of the agent's own link in the ledger."""
R = TypeVar("R", wire.EventRecord, wire.MetricReport)


class Packed(msgspec.Struct, frozen=True):
    """A payload that may leave, and how many of its bytes are of each class; the rest is its envelope."""

    payload: bytes
    taken: dict[str, int]


class Books(Protocol):
    """Records decisions: the ledger, or a forwarder to its process."""

    def add(
        self, pipeline: str, data_class: str, destination: str, decision: Decision, size: int, count: int = 1
    ) -> None:
        """Add ``count`` decisions about ``size`` bytes in all."""


class Gate:
    """Lets only allowed classes of data leave one pipeline for one destination (``host:port`` or ``FLEET``).

    ``egress``: the classes of ``[privacy] egress``; decisions are recorded in ``books``.

    Raises:
        ConfigError: A name is not a class of data.
    """

    def __init__(
        self, pipeline: str, egress: Collection[str], books: Books, destination: str = FLEET
    ) -> None:
        if unknown := set(egress).difference(NAMES):
            raise ConfigError(
                f"privacy.egress: {', '.join(sorted(unknown))} is not a class of data",
                hint=f"one of: {', '.join(NAMES)}",
            )
        self._pipeline, self._books, self._destination = pipeline, books, destination
        self._allowed = passing(egress, "fleet" if destination == FLEET else "broker")
        self._is_shut = self._allowed.isdisjoint(NAMES)

    def check(self, record: wire.Record) -> wire.Record | None:
        """Return the record without the fields that may not leave; None if nothing may.

        An event leaves if any class may; data about the device itself always does.
        """
        if isinstance(record, wire.EventRecord):
            held = _held(record)
            self._refuse(sizes(held, _msgpack_size))
            return None if self._is_shut else self._strip(record, held)
        if isinstance(record, wire.MetricReport):
            held = _named(record)
            self._refuse(sizes(held, _msgpack_size))
            return self._strip(record, held)
        return record

    def pack(
        self, document: Mapping[str, Any], wrap: Callable[[dict[str, Any]], dict[str, Any]] = dict
    ) -> Packed | None:
        """Return a document as JSON without what may not leave; None if nothing may.

        ``wrap`` puts what may leave into an envelope. Call ``enter`` each time the payload is handed to the
        network.
        """
        self._refuse(sizes(document, _json_size))
        if self._is_shut:
            return None
        kept = permitted(document, self._allowed)
        return Packed(msgspec.json.encode(wrap(kept)), dict(sizes(kept, _json_size)))

    def whole(self, payload: bytes, data_class: str) -> Packed | None:
        """Return a payload that is all of one class, such as a picture; None if that may not leave."""
        if self._is_shut or data_class not in self._allowed:
            self._refuse({data_class: len(payload)})
            return None
        return Packed(payload, {} if data_class == ENVELOPE else {data_class: len(payload)})

    def permits(self, packed: Packed) -> bool:
        """Return whether a payload that was packed before may leave now; if not, that is recorded."""
        self._refuse(packed.taken)
        return not self._is_shut and self._allowed.issuperset(packed.taken)

    def enter(self, packed: Packed, destination: str = "") -> None:
        """Record that a payload is handed to the network, for the gate's destination if none is given."""
        to = destination or self._destination
        _enter(self._books, self._pipeline, to, packed.taken, len(packed.payload))

    def allows(self, data_class: str) -> bool:
        """Return whether data of a class may leave."""
        return data_class in self._allowed

    def _refuse(self, taken: Mapping[str, int]) -> None:
        for name, size in taken.items():
            if name not in self._allowed:
                self._books.add(self._pipeline, name, self._destination, "refused", size)

    def _strip(self, record: R, held: Mapping[str, Any]) -> R:
        nothing = _NOTHING[type(record)]
        taken = {field: nothing[field] for field in held if class_of(field) not in self._allowed}
        return msgspec.structs.replace(record, **taken) if taken else record


def enter_sent(books: Books, body: bytes, records: Iterable[bytes] = ()) -> None:
    """Record a payload that the agent's link hands to the network, and the encoded records in it."""
    rest = len(body)
    for encoded in records:
        rest -= len(encoded)
        try:
            record = wire.decode_record(encoded)
        except ProtocolError:  # a damaged outbox: it is sent and counted as it is
            _enter(books, "", FLEET, {}, len(encoded), UNKNOWN)
            continue
        kind = ENVELOPE if isinstance(record, wire.EventRecord) else HEALTH
        pipeline = getattr(record, "pipeline", "")
        _enter(books, pipeline, FLEET, sizes(_named(record), _msgpack_size), len(encoded), kind)
    _enter(books, "", FLEET, {}, rest, ENVELOPE if rest < len(body) else HEALTH)


def _enter(
    books: Books, pipeline: str, destination: str, taken: Mapping[str, int], total: int, rest: str = ENVELOPE
) -> None:
    """Record the bytes of each class, and the others of ``total`` under ``rest``."""
    for name, size in {**taken, rest: total - sum(taken.values())}.items():
        books.add(pipeline, name, destination, "passed", size)


def _held(record: wire.Record) -> dict[str, Any]:
    """Return the non-default fields of a record."""
    if not isinstance(record, (wire.EventRecord, wire.MetricReport)):
        return {}
    nothing = _NOTHING[type(record)]
    return {
        field: value
        for field in record.__struct_fields__
        if class_of(field) != ENVELOPE and (value := getattr(record, field)) != nothing[field]
    }


def _named(record: wire.Record) -> dict[str, Any]:
    """Return those that ``[privacy] egress`` can name."""
    return {field: value for field, value in _held(record).items() if class_of(field) in NAMES}


def _nothing(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the value of each field whose class may not leave."""
    empty: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        if field.default is not msgspec.NODEFAULT:
            empty[field.name] = field.default
        elif field.default_factory is not msgspec.NODEFAULT:
            empty[field.name] = field.default_factory()
        else:
            empty[field.name] = ""
    return empty


_NOTHING = {kind: _nothing(kind) for kind in (wire.EventRecord, wire.MetricReport)}


def _msgpack_size(field: str, value: Any) -> int:
    return len(msgspec.msgpack.encode(field)) + len(msgspec.msgpack.encode(value))


def _json_size(field: str, value: Any) -> int:
    return len(field) + len(msgspec.json.encode(value)) + 4  # two quotes, a colon, a comma
