"""How every benchmark ends: one claim, one figure, one bar."""

from __future__ import annotations

import json
from typing import Any

HELD, NOT_HELD = 0, 8


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
