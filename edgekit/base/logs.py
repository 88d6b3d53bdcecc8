"""The log of every process of edgekit: to stderr, one line an event."""

import logging
import sys


def log_to_stderr(level: int = logging.INFO) -> None:
    """Write the process's log to stderr, from ``level`` (of ``logging``) on."""
    logging.basicConfig(
        stream=sys.stderr, level=level, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s"
    )
