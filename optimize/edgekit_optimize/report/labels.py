"""Names beside points, where there is room for them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Anchor = Literal["start", "end", "middle"]


Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


@dataclass(frozen=True)
class Dot:
    """A point on the paper: centre and radius; more ``weight`` is labelled earlier, 0 never."""

    x: float
    y: float
    radius: float
    name: str
    weight: int


@dataclass(frozen=True)
class Label:
    """A name and where it stands: the baseline's ``y``, and ``x`` at the anchor."""

    x: float
    y: float
    anchor: Anchor
    name: str


def place_labels(dots: list[Dot], area: Box, letter: float) -> list[Label]:
    """Return labels that touch neither each other nor a point, nor leave their area.

    Args:
        dots: Every point; those of weight 0 are only in the way.
        area: Where labels may stand: left, top, right, bottom.
        letter: Size of the letters; a letter is taken to be 0.6 of it wide.
    """
    taken: list[Box] = [(d.x - d.radius, d.y - d.radius, d.x + d.radius, d.y + d.radius) for d in dots]
    found = []
    for dot in sorted(dots, key=lambda one: (-one.weight, one.x)):
        if not dot.weight:
            continue
        for label in _options(dot, letter):
            here = box(label, letter)
            fits = here[0] >= area[0] and here[1] >= area[1] and here[2] <= area[2] and here[3] <= area[3]
            if fits and not any(touch(here, other) for other in taken):
                taken.append(here)
                found.append(label)
                break
    return found


def _options(dot: Dot, letter: float) -> tuple[Label, ...]:
    gap, half = dot.radius + 4, letter * 0.35
    return (
        Label(dot.x + gap, dot.y + half, "start", dot.name),
        Label(dot.x - gap, dot.y + half, "end", dot.name),
        Label(dot.x, dot.y - gap, "middle", dot.name),
        Label(dot.x, dot.y + gap + letter * 0.7, "middle", dot.name),
        Label(dot.x + gap * 0.8, dot.y - gap * 0.8, "start", dot.name),
        Label(dot.x + gap * 0.8, dot.y + gap * 0.8 + letter * 0.7, "start", dot.name),
        Label(dot.x - gap * 0.8, dot.y - gap * 0.8, "end", dot.name),
        Label(dot.x - gap * 0.8, dot.y + gap * 0.8 + letter * 0.7, "end", dot.name),
    )


def box(label: Label, letter: float) -> Box:
    """Return the room that a label takes."""
    long = len(label.name) * letter * 0.6
    left = label.x - {"start": 0.0, "middle": long / 2, "end": long}[label.anchor]
    return (left, label.y - letter * 0.8, left + long, label.y + letter * 0.25)


def touch(one: Box, other: Box) -> bool:
    """Whether two boxes share more than an edge."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
