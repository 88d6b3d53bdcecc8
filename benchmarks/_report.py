"""How every benchmark begins and ends: the same flags; one claim, one figure, one bar."""

from __future__ import annotations

import argparse
import json
from typing import Any

HELD, NOT_HELD = 0, 8


def parser(doc: str | None, *, full: str, sabotage: str) -> argparse.ArgumentParser:
    """Return a parser with the flags that every benchmark takes.

    Args:
        doc: The script's docstring.
        full: What ``--full`` does.
        sabotage: The fault that ``--sabotage`` plants; the script must then exit with 8.
    """
    found = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--json", action="store_true", help="print one JSON document")
    found.add_argument("--full", action="store_true", help=full)
    found.add_argument("--sabotage", action="store_true", help=f"plant a fault, for exit 8: {sabotage}")
    return found


def finish(claim: str, value: float, unit: str, bar: float, holds: bool, detail: Any, as_json: bool) -> int:
    """Print the outcome and return the process's exit code: 0 when the bar holds, 8 when not."""
    document = {
        "claim": claim,
        "value": value,
        "unit": unit,
        "bar": bar,
        "holds": bool(holds),
        "detail": detail,
    }
    if as_json:
        print(json.dumps(document))
    else:
        print(f"{'holds' if holds else 'DOES NOT HOLD'}: {claim}: {value} {unit}, bar {bar}")
        print(json.dumps(detail, indent=1))
    return HELD if holds else NOT_HELD
