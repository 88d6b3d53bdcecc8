"""What a command gives back: one document for machines, one text for people."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Report:
    """The outcome of a command.

    Args:
        document: What ``--json`` prints, one JSON object.
        text: What a person reads.
        exit_code: 0, or the code of the class of error that the outcome amounts to.
    """

    document: dict[str, Any]
    text: str
    exit_code: int = 0
