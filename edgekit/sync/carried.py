"""The outbox of a device without a link, written to a file; ``update.carried_outbox`` signs it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgekit.base.disk import disk_errors
from edgekit.base.parts import write_part
from edgekit.core import wire
from edgekit.sync.outbox import Cursor, Outbox

_STEP = 20


def write_outbox(outbox: Outbox, path: Path) -> int:
    """Write all that waits in an outbox, a batch a part; return the number of messages.

    They stay in the outbox until the fleet's watermark passes them, so a file that is lost is written again.

    Raises:
        StorageError: The file cannot be written.
    """
    outbox.flush()
    cursor, last, count = Cursor(0, 0), outbox.last_seq, 0
    with disk_errors(path), path.open("wb") as file:
        while parcels := outbox.batches(cursor, _STEP, live_after=last):
            for parcel in parcels:
                write_part(file, msgspec.msgpack.encode((parcel.leaf, wire.encode(parcel.batch))))
                count += len(parcel.batch.items)
            ends = {leaf: [p.last for p in parcels if p.leaf == leaf] for leaf in ("ev", "m")}
            cursor = Cursor(max(ends["ev"], default=cursor.ev), max(ends["m"], default=cursor.m))
            if min(parcel.batch.seq0 for parcel in parcels) > last:
                break  # an outbox that fills as fast as it is read
    return count
