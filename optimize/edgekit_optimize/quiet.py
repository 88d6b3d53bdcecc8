"""Shield the terminal and edgekit's own logging from what other libraries do to them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def hushed() -> Iterator[None]:
    """Suppress log records up to WARNING of every logger; some libraries log to the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


@contextmanager
def root_logger_kept() -> Iterator[None]:
    """Restore the root logger's level, filters and handlers afterwards.

    OpenVINO's ``convert_model`` sets its level to ERROR and does not reset it after a failure, which
    would silence the rest of the run.
    """
    root = logging.getLogger()
    level, filters, handlers = root.level, list(root.filters), list(root.handlers)
    try:
        yield
    finally:
        root.setLevel(level)
        root.filters[:] = filters
        root.handlers[:] = handlers
