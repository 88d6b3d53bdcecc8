"""Place names beside points of the plot where there is room. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Anchor = Literal["start", "end", "middle"]


Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


@dataclass(frozen=True)
class Dot:
    """A point of the drawing: centre and radius; higher ``weight`` is labelled first, 0 never."""

    x: float
    y: float
    radius: float
    name: str
    weight: int


@dataclass(frozen=True)
class Label:
    """A name and its position: the baseline's ``y``, and ``x`` at the anchor."""

    x: float
    y: float
    anchor: Anchor
    name: str


def place_labels(dots: list[Dot], area: Box, letter: float) -> list[Label]:
    """Return labels inside the area that touch neither each other nor a point.

    Args:
        dots: Every point; those of weight 0 are obstacles only.
        area: The area for labels: left, top, right, bottom.
        letter: The font size; a letter's width is taken as 0.6 of it.
    """
    taken: list[Box] = [(d.x - d.radius, d.y - d.radius, d.x + d.radius, d.y + d.radius) for d in dots]
    labels = []
    for dot in sorted(dots, key=lambda dot: (-dot.weight, dot.x)):
        if not dot.weight:
            continue
        for label in _options(dot, letter):
            here = box(label, letter)
            fits = here[0] >= area[0] and here[1] >= area[1] and here[2] <= area[2] and here[3] <= area[3]
            if fits and not any(touch(here, other) for other in taken):
                taken.append(here)
                labels.append(label)
                break
    return labels


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
    """Return the box that a label takes."""
    long = len(label.name) * letter * 0.6
    left = label.x - {"start": 0.0, "middle": long / 2, "end": long}[label.anchor]
    return (left, label.y - letter * 0.8, left + long, label.y + letter * 0.25)


def touch(first: Box, second: Box) -> bool:
    """Whether two boxes share more than an edge."""
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]
