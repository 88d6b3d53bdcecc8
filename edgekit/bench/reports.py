"""Measurements on their way to the fleet: files that the agent takes into its outbox, whoever left them.

A measurement is made by a process of its own (``edgekit bench --report``, the agent's children) and may
end while no agent runs. So it is left as a file below the state folder; the agent takes it when it is
told of it, and at its start. A file that is taken twice does no harm: the fleet keeps the newest figure.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from edgekit.base.files import write_durably
from edgekit.core.errors import ProtocolError
from edgekit.core.wire import MeasurementRecord, decode_record, encode_record

logger = logging.getLogger(__name__)

MAX_WAITING = 64
"""Reports that may wait for an agent; with more, the oldest go."""
_SUFFIX = ".measured"


def leave_report(state: Path, record: MeasurementRecord) -> Path:
    """Write a measurement down durably for the agent to take; return the file.

    Raises:
        OSError: The state folder cannot be written.
    """
    folder = state / "reports"
    path = folder / f"{time.time_ns():020d}-{os.getpid()}{_SUFFIX}"
    write_durably(path, encode_record(record))
    for old in waiting(state)[:-MAX_WAITING]:
        logger.warning("%s is given up: more than %d reports wait for the agent", old, MAX_WAITING)
        old.unlink(missing_ok=True)
    return path


def waiting(state: Path) -> list[Path]:
    """Return the files that wait, the oldest first."""
    return sorted((state / "reports").glob(f"*{_SUFFIX}"))


def take_reports(state: Path, put: Callable[[MeasurementRecord], None], flush: Callable[[], bool]) -> int:
    """Hand every waiting measurement on; return how many.

    Args:
        state: The state folder.
        put: Takes each.
        flush: Makes what was put durable and says whether it is; only then are the files removed.
    """
    paths = waiting(state)
    done: list[Path] = []
    count = 0
    for path in paths:
        try:
            record = decode_record(path.read_bytes())
        except OSError as cause:
            logger.warning("%s cannot be read, it stays: %s", path, cause)
            continue
        except ProtocolError as error:
            logger.warning("%s is no measurement and is removed: %s", path, error)
            record = None
        if isinstance(record, MeasurementRecord):
            put(record)
            count += 1
        done.append(path)
    if done and flush():
        for path in done:
            path.unlink(missing_ok=True)
    return count
