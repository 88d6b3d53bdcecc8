"""The egress gate: the only way out for data. Deny by default, before the outbox and not after it.

Classes of data are those of ``[privacy] egress``. What describes the device and not what it saw
(health, updates, alerts) always passes.
"""

from __future__ import annotations

from edgekit.core import wire
from edgekit.sync.ledger import Ledger

CLASSES = frozenset({"counts", "labels", "scores", "boxes", "points", "values", "pixels"})


class Gate:
    """Lets only allowed classes of data leave one pipeline, and writes down what left.

    Args:
        allowed: Names out of ``CLASSES``.
        ledger: Where decisions are recorded.
        destination: Where passed data goes, as the ledger shows it.
    """

    def __init__(self, allowed: frozenset[str], ledger: Ledger, destination: str = "fleet") -> None:
        raise NotImplementedError

    def check(self, record: wire.Record) -> wire.Record | None:
        """Return the record with every field that may not leave taken out; None where nothing is left.

        An event leaves with its label only under "counts" or "labels"; ``score`` needs "scores",
        ``box`` "boxes", ``value`` "values", ``image`` "pixels", ``count`` "counts". A metric report's
        ``labels`` need "counts".
        """
        raise NotImplementedError
