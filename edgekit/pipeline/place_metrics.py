"""What lines and zones have counted, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from edgekit.base.exposition import family, sample

MAX_SERIES = 500
"""Of each family; what is beyond is left out."""

_FAMILIES = (
    ("edgekit_line_crossings_total", "counter", "Objects that crossed a line, by direction and label."),
    ("edgekit_zone_entered_total", "counter", "Objects that came into a zone, by label."),
    ("edgekit_zone_left_total", "counter", "Objects that left a zone, by label."),
    ("edgekit_zone_inside", "gauge", "Objects inside a zone now."),
)


def place_lines(pipelines: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the families of ``zones`` and ``lines`` of each pipeline's summary; empty ones are left out.

    >>> seen = {"lines": {"door": {"in": {"person": 2}}}, "zones": {}}
    >>> place_lines({"hall": seen})[-1]
    'edgekit_line_crossings_total{pipeline="hall",line="door",direction="in",label="person"} 2'
    """
    lines: list[str] = []
    for name, kind, help_text in _FAMILIES:
        rows = (
            sample(name, {"pipeline": pipeline, **labels}, number)
            for pipeline, places in pipelines.items()
            for labels, number in _rows(name, places)
        )
        if samples := list(islice(rows, MAX_SERIES)):
            lines += family(name, kind, help_text, samples)
    return lines


def _rows(name: str, places: Mapping[str, Any]) -> Iterator[tuple[dict[str, str], int]]:
    if name == "edgekit_line_crossings_total":
        for line, directions in places.get("lines", {}).items():
            for direction, counts in directions.items():
                for label, number in counts.items():
                    yield {"line": line, "direction": direction, "label": label}, number
        return
    for zone, document in places.get("zones", {}).items():
        if name == "edgekit_zone_inside":
            yield {"zone": zone}, document["inside"]
            continue
        for label, number in document["entered" if "entered" in name else "left"].items():
            yield {"zone": zone, "label": label}, number
