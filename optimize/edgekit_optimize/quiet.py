"""Keep what other libraries do to logging from the user's terminal, and from the program's own logs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def hushed() -> Iterator[None]:
    """Let no warning through, of whatever logger: some libraries give advice to the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


@contextmanager
def root_logger_kept() -> Iterator[None]:
    """Give the root logger back as it was.

    OpenVINO's ``convert_model`` sets it to ERROR and, when it fails, leaves it so: from then on
    the program would log nothing.
    """
    root = logging.getLogger()
    level, filters, handlers = root.level, list(root.filters), list(root.handlers)
    try:
        yield
    finally:
        root.setLevel(level)
        root.filters[:] = filters
        root.handlers[:] = handlers
