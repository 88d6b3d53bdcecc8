"""Measurements on their way to the fleet: files below the state folder that the agent moves into its outbox.

``edgekit bench --report`` and the agent's children may end while no agent runs, so they leave a file. The
agent takes it when notified, and at its start. Taking a file twice is harmless: the fleet keeps the newest.
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
"""Reports that may wait for an agent; beyond this, the oldest are dropped."""
_SUFFIX = ".measured"


def leave_report(state: Path, record: MeasurementRecord) -> Path:
    """Write a measurement durably for the agent; return the file.

    Raises:
        OSError: The state folder cannot be written.
    """
    folder = state / "reports"
    path = folder / f"{time.time_ns():020d}-{os.getpid()}{_SUFFIX}"
    write_durably(path, encode_record(record))
    for old in waiting(state)[:-MAX_WAITING]:
        logger.warning("%s is dropped: more than %d reports wait for the agent", old, MAX_WAITING)
        old.unlink(missing_ok=True)
    return path


def waiting(state: Path) -> list[Path]:
    """Return the waiting files, oldest first."""
    return sorted((state / "reports").glob(f"*{_SUFFIX}"))


def take_reports(state: Path, put: Callable[[MeasurementRecord], None], flush: Callable[[], bool]) -> int:
    """Pass every waiting measurement to ``put``; return how many.

    The files are removed once ``flush`` returns that everything put is durable.
    """
    done: list[Path] = []
    count = 0
    for path in waiting(state):
        try:
            record = decode_record(path.read_bytes())
        except OSError as cause:
            logger.warning("%s cannot be read and is kept: %s", path, cause)
            continue
        except ProtocolError as error:
            logger.warning("%s is not a measurement and is removed: %s", path, error)
            record = None
        if isinstance(record, MeasurementRecord):
            put(record)
            count += 1
        done.append(path)
    if done and flush():
        for path in done:
            path.unlink(missing_ok=True)
    return count
