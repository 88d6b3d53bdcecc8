"""The Pareto plot of accuracy against cost, as SVG, so that it shows without a script.

There is a wide drawing for screens and paper and a narrow one for telephones. Points are drawn once; a
script moves them to the positions in their ``data-x`` when another axis is chosen. Each view has a group
with its axis, front and names, of which one is shown.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgekit_optimize.report import numbers as no
from edgekit_optimize.report.figures import front, interval, reference_value
from edgekit_optimize.report.labels import Dot, place_labels
from edgekit_optimize.report.markup import Markup, join, tag
from edgekit_optimize.report.scales import Scale, cost_scale, quality_scale
from edgekit_optimize.report.views import View, views
from edgekit_optimize.study import CandidateResult, Study

LETTER = 11.5
_RADIUS = (3.5, 11.0)


@dataclass(frozen=True)
class Paper:
    """A drawing's size and margins, in its own units."""

    kind: str
    width: float
    height: float
    left: float = 58
    right: float = 14
    top: float = 14
    bottom: float = 46


WIDE = Paper("wide", 860, 570)
NARROW = Paper("narrow", 350, 380, left=50, right=8)


@dataclass(frozen=True)
class Drawing:
    """The data that all views of one drawing share."""

    study: Study
    paper: Paper
    views: tuple[View, ...]
    y: Scale
    reference: float
    chosen: frozenset[str]

    def x(self, view: View) -> Scale:
        """Return the view's horizontal axis."""
        paper = self.paper
        return cost_scale(list(view.values.values()), paper.left, paper.width - paper.right)

    def height_of(self, index: int) -> float:
        """Return a candidate's vertical position."""
        score = self.study.candidates[index].score
        return self.y.at(score.value if score is not None else self.y.low)

    def radius(self, index: int) -> float:
        """Return a point's radius: its area grows with the file."""
        most = max((candidate.bytes for candidate in self.study.candidates), default=0) or 1
        low, high = _RADIUS
        return low + (high - low) * math.sqrt(self.study.candidates[index].bytes / most)


def plot(study: Study, paper: Paper) -> Markup:
    """Return the drawing, or nothing if no candidate was scored."""
    all_views = views(study)
    reference = reference_value(study)
    if not all_views or reference is None:
        return Markup()
    scored = [entry.score.value for entry in study.candidates if entry.score is not None]
    gate = reference - study.max_drop
    y = quality_scale(scored, reference, gate, paper.height - paper.bottom, paper.top)
    chosen = frozenset(entry.chosen for entry in study.targets)
    drawing = Drawing(study, paper, all_views, y, reference, chosen)
    order = sorted({index for view in all_views for index in view.values}, key=drawing.radius, reverse=True)
    return tag(
        "svg",
        _levels(drawing),
        join(_view(drawing, view, is_first=view is all_views[0]) for view in all_views),
        join(_point(drawing, index) for index in order),
        class_=f"plot {paper.kind}",
        viewBox=f"0 0 {paper.width:g} {paper.height:g}",
        role="group",
        aria_label=f"{study.metric} against cost, a point for each candidate; the table below has the same",
    )


def _write(x: float, y: float, words: str, class_: str, anchor: str = "start") -> Markup:
    return tag("text", words, x=round(x, 1), y=round(y, 1), class_=class_, text_anchor=anchor)


def _line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    ends = {"x1": round(x1, 1), "y1": round(y1, 1), "x2": round(x2, 1), "y2": round(y2, 1)}
    return tag("line", class_=class_, **ends)


def _levels(drawing: Drawing) -> Markup:
    """Draw the parts common to all views: the metric's axis, the reference and the gate."""
    paper, y = drawing.paper, drawing.y
    right = paper.width - paper.right
    parts = []
    marks = y.ticks(6)
    step = marks[1] - marks[0] if len(marks) > 1 else 0.01
    for mark in marks:
        parts.append(_line(paper.left, y.at(mark), right, y.at(mark), "grid"))
        decimals = max(0, min(3, math.ceil(-math.log10(step * 100) - 1e-9)))
        parts.append(_write(paper.left - 7, y.at(mark) + 4, no.percent(mark, decimals), "tick", "end"))
    gate = drawing.reference - drawing.study.max_drop
    parts.append(_line(paper.left, y.at(drawing.reference), right, y.at(drawing.reference), "reference"))
    parts.append(_line(paper.left, y.at(gate), right, y.at(gate), "gate"))
    return tag("g", join(parts), aria_hidden="true")


def _view(drawing: Drawing, view: View, *, is_first: bool) -> Markup:
    """Draw the parts of one view: its axis, the front, names and the levels' captions."""
    paper, x = drawing.paper, drawing.x(view)
    base = paper.height - paper.bottom
    parts = [_line(paper.left, base, paper.width - paper.right, base, "axis")]
    for mark in x.ticks(8 if paper is WIDE else 4):
        parts.append(_line(x.at(mark), base, x.at(mark), base + 5, "axis"))
        parts.append(_write(x.at(mark), base + 18, f"{mark:,.6g}", "tick", "middle"))
    middle = (paper.left + paper.width - paper.right) / 2
    title = view.title if paper is WIDE else view.title.split(" (")[0]
    parts.append(_write(middle, paper.height - 8, title, "title", "middle"))
    parts.append(_front(drawing, view, x))
    parts += _names(drawing, view, x)
    hidden = None if is_first else "none"
    return tag("g", join(parts), class_="view", data_view=view.key, display=hidden, aria_hidden="true")


def _front(drawing: Drawing, view: View, x: Scale) -> Markup:
    """Draw the front as stairs: each corner beats everything to its right and below."""
    scored = {}
    for index, cost in view.values.items():
        score = drawing.study.candidates[index].score
        if score is not None:
            scored[index] = (cost, score.value)
    steps: list[str] = []
    for index in front(scored):
        here, height = x.at(view.values[index]), drawing.height_of(index)
        steps.append(f"M{here:.1f} {height:.1f}" if not steps else f"H{here:.1f}V{height:.1f}")
    return tag("path", d="".join(steps), class_="front", fill="none")


def _names(drawing: Drawing, view: View, x: Scale) -> list[Markup]:
    paper, study = drawing.paper, drawing.study
    gate = drawing.reference - study.max_drop
    words = (
        (drawing.reference, f"float {no.percent(drawing.reference)}", "level"),
        (gate, f"gate {no.percent(gate)}", "level low"),
    )
    right = paper.width - paper.right - 4
    dots, texts = [], []
    for level, name, class_ in words:
        up = drawing.y.at(level) - 5
        texts.append(_write(right, up, name, class_, "end"))
        dots += [Dot(right - 6.5 * part, up - 4, 5, "", 0) for part in range(len(name) + 1)]
    for index, cost in view.values.items():
        one = study.candidates[index]
        weight = 3 if one.plan.id in drawing.chosen else 2 if one.front else 1
        off = "↓ " if _is_below(drawing, one) else ""
        radius = drawing.radius(index) + (5 if one.plan.id in drawing.chosen else 0)
        dots.append(Dot(x.at(cost), drawing.height_of(index), radius, off + one.plan.id, weight))
    placed = place_labels(dots, (paper.left, 0, paper.width, paper.height - paper.bottom), LETTER)
    return [
        *texts,
        *(_write(one.x, one.y, one.name, _name_class(drawing, one.name), one.anchor) for one in placed),
    ]


def _name_class(drawing: Drawing, name: str) -> str:
    return "name chosen" if name.lstrip("↓ ") in drawing.chosen else "name"


def _is_below(drawing: Drawing, candidate: CandidateResult) -> bool:
    return candidate.score is not None and candidate.score.value < drawing.y.low


def describe(study: Study, candidate: CandidateResult) -> str:
    """Return a candidate's row as lines ``what: value``, the first its id."""
    lines = [candidate.plan.id]
    if candidate.score is not None:
        lines.append(f"{study.metric}: {no.percent(candidate.score.value)}")
        lines.append(f"lost: {no.points(candidate.score.drop)} points ({interval(candidate.score)})")
    lines += [
        f"{t.profile}, {no.count(t.threads, 'thread')}: {no.milliseconds(t.total_ms)}"
        for t in candidate.timings[:4]
    ]
    lines.append(f"size: {no.size(candidate.bytes)}" if candidate.bytes else "size: not known")
    memory = max((t.rss_mb for t in candidate.timings), default=0.0)
    if memory:
        lines.append(f"memory: up to {no.megabytes(memory)}")
    lines.append(f"gate: {candidate.gate or 'not measured'}{', in the bundle' if candidate.kept else ''}")
    return "\n".join(lines)


def _point(drawing: Drawing, index: int) -> Markup:
    one = drawing.study.candidates[index]
    if one.score is None:
        return Markup()
    spots = {
        view.key: drawing.x(view).at(view.values[index]) for view in drawing.views if index in view.values
    }
    first = spots.get(drawing.views[0].key)
    height, radius = drawing.height_of(index), drawing.radius(index)
    states = [f"b-{one.plan.backend}", one.gate or "unmeasured"]
    states += ["chosen"] if one.plan.id in drawing.chosen else []
    words = describe(drawing.study, one)
    whisker = [
        drawing.y.at(one.score.reference - bound) - height for bound in (one.score.low, one.score.high)
    ]
    return tag(
        "a",
        _line(0, whisker[0], 0, whisker[1], "whisker"),
        shape(one.plan.backend, radius + 4, "ring") if one.plan.id in drawing.chosen else "",
        shape(one.plan.backend, radius, "dot"),
        tag("title", words),
        class_=f"point {' '.join(states)}",
        href=f"#c-{index}",
        data_c=index,
        data_x=" ".join(f"{key}={at:.1f}" for key, at in spots.items()),
        data_y=round(height, 1),
        transform=f"translate({first if first is not None else 0:.1f} {height:.1f})",
        display=None if first is not None else "none",
    )


def shape(backend: str, radius: float, class_: str) -> Markup:
    """Return a backend's shape about the origin, all of the same area as a circle of that radius."""
    if backend == "onnxruntime":
        half = radius * 0.886
        side = round(2 * half, 1)
        return tag("rect", x=round(-half, 1), y=round(-half, 1), width=side, height=side, class_=class_)
    if backend == "openvino":
        half = radius * 1.253
        return tag("path", d=f"M0 {-half:.1f}L{half:.1f} 0L0 {half:.1f}L{-half:.1f} 0Z", class_=class_)
    return tag("circle", r=round(radius, 1), class_=class_)
