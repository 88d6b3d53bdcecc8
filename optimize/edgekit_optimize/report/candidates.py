"""The plot with its controls, the table of all candidates, and all times."""

from __future__ import annotations

from edgekit_optimize.report import numbers as no
from edgekit_optimize.report.figures import BACKEND_NAMES, front, interval, place, timing_at
from edgekit_optimize.report.markup import Markup, join, tag
from edgekit_optimize.report.plot import NARROW, WIDE, plot, shape
from edgekit_optimize.report.tables import Column, cell, empty, fold, name, number, pill, row, section, table
from edgekit_optimize.report.views import AXES, MAX_PLACES, View, plotted_places, views
from edgekit_optimize.study import CandidateResult, Study, Timing

_TIME_COLUMNS = (
    "Threads",
    *(f"{label} ms" for label in ("p50", "p95", "p99", "Fill", "Total", "Load")),
    *("Memory", "Noise", "Rounds"),
)
GATES = {"pass": "good", "fail": "bad"}


def plot_part(study: Study) -> Markup:
    """Return the plot, the radio buttons of its axis, its legend and its text."""
    title = "Accuracy against cost"
    if not views(study):
        return section("plot", title, empty("No candidate was scored, so there is nothing to plot."))
    side = tag(
        "div",
        tag("div", _radios(study), class_="needs-script", hidden=True),
        tag(
            "p",
            "Point at a candidate, or reach it with Tab, to read its row:",
            class_="faint needs-script",
            hidden=True,
        ),
        tag("div", id="row-card", class_="needs-script", hidden=True),
        class_="side",
    )
    drawings = tag("div", plot(study, WIDE), plot(study, NARROW), _legend(study), class_="drawings")
    words = tag("p", tag("b", "In words: "), in_words(study), class_="faint words")
    missing = join(_missing(study, view, is_first=index == 0) for index, view in enumerate(views(study)))
    skip = tag("a", "Skip the plot", href="#candidates", class_="skip")
    lead = "Up is better, left is cheaper. Each corner of the stairs beats all below and right of it."
    panel = tag("div", drawings, side, class_="panel split")
    return section("plot", title, skip, panel, words, missing, lead=lead)


def in_words(study: Study) -> str:
    """Return a text description of the plot's initial view."""
    view = views(study)[0]
    scored = {
        i: candidate.score for i, candidate in enumerate(study.candidates) if candidate.score is not None
    }
    order = front({i: (cost, scored[i].value) for i, cost in view.values.items()})
    path = "; ".join(
        f"{study.candidates[i].plan.id} ({view.words(view.values[i])}, {no.percent(scored[i].value)})"
        for i in order
    )
    failed = sum(candidate.gate == "fail" for candidate in study.candidates)
    return (
        f"{len(scored)} of {no.count(len(study.candidates), 'candidate')} were scored, {failed} failed "
        f"the gate. By {view.title}, the front from cheap to accurate: {path}."
    )


def _radios(study: Study) -> Markup:
    plotted = views(study)
    axes = {view.axis for view in plotted}
    first = plotted[0].axis
    axis = [_radio("axis", key, words, is_on=key == first) for key, words in AXES.items() if key in axes]
    parts = [tag("fieldset", tag("legend", "Horizontal axis"), *axis)]
    places = plotted_places(study)
    if len(places) > 1:
        where = [_radio("place", str(i), place.words, is_on=i == 0) for i, place in enumerate(places)]
        parts.append(tag("fieldset", tag("legend", "Measured on"), *where))
    return join(parts)


def _radio(group: str, value: str, words: str, *, is_on: bool) -> Markup:
    button = tag("input", type="radio", name=group, value=value, checked=is_on, autocomplete="off")
    return tag("label", button, " ", words)


def _legend(study: Study) -> Markup:
    backends = list(dict.fromkeys(candidate.plan.backend for candidate in study.candidates))
    keys = [
        _key(BACKEND_NAMES.get(backend, backend), f"b-{backend} pass", shape(backend, 6, "dot"))
        for backend in backends
    ]
    keys.append(_key("failed the gate", f"b-{backends[0]} fail", shape(backends[0], 6, "dot")))
    ring = join([shape(backends[0], 9, "ring"), shape(backends[0], 5, "dot")])
    keys.append(_key("chosen for a board", f"b-{backends[0]} pass chosen", ring))
    bar = tag("line", x1=0, y1=-9, x2=0, y2=9, class_="whisker")
    keys.append(_key("95 % interval", f"b-{backends[0]}", bar))
    keys.append(tag("li", "larger point: larger file"))
    return tag("ul", *keys, class_="legend")


def _key(words: str, class_: str, drawing: str) -> Markup:
    icon = tag("g", drawing, class_=f"point {class_}", transform="translate(11 11)")
    return tag("li", tag("svg", icon, viewBox="0 0 22 22", aria_hidden="true"), words)


def _missing(study: Study, view: View, *, is_first: bool) -> Markup:
    absent = [candidate.plan.id for i, candidate in enumerate(study.candidates) if i not in view.values]
    words = (
        f"Not in the plot, since a figure is missing (see the table): {', '.join(absent)}." if absent else ""
    )
    return tag("p", words, class_="faint", data_missing=view.key, hidden=not is_first or not absent)


def table_part(study: Study) -> Markup:
    """Return the sortable table of all candidates, and below it every measured time."""
    if not study.candidates:
        return section("candidates", "All candidates", empty("The study planned no candidate."))
    places = plotted_places(study)
    lead = "Click a heading to sort."
    if places:
        lead += f" Times: {places[0].words}; all other machines are in the table of times below."
    rows = [_row(study, index, candidate) for index, candidate in enumerate(study.candidates)]
    body = table("All candidates", _columns(study), rows, sorts=True, class_="sheet")
    return section("candidates", "All candidates", body, _times(study), lead=lead)


def _columns(study: Study) -> tuple[Column, ...]:
    return (
        Column("Candidate"),
        Column(study.metric, is_number=True, means=study.metric_means),
        Column("Lost", is_number=True, means="points against the float model on the same samples"),
        Column("95 % interval", is_number=True, means="of the loss, paired bootstrap"),
        Column("p50", is_number=True, means="median of one inference, ms"),
        Column("p95", is_number=True, means="95 of 100 inferences take at most this, ms"),
        Column("p99", is_number=True, means="99 of 100 inferences take at most this, ms"),
        Column("Total", is_number=True, means="p50 and the time to fill the input, ms"),
        Column("Size", is_number=True),
        Column("Memory", is_number=True, means="of the process that ran it"),
        Column("Integer", is_number=True, means="share of the multiply-adds computed in integers"),
        Column("Gate"),
        Column("Bundle", means="whether it is in the bundle"),
        Column("Verdict"),
    )


def _row(study: Study, index: int, candidate: CandidateResult) -> Markup:
    places = plotted_places(study)
    time = timing_at(candidate, places[0]) if places else None
    boards = [target.title for target in study.targets if target.chosen == candidate.plan.id]
    chosen = tag("span", "★ ", ", ".join(boards), class_="chosen-for") if boards else ""
    how = tag("small", _how(candidate))
    integer = candidate.integer_share
    return row(
        name(tag("code", candidate.plan.id), how, chosen),
        *_score_cells(candidate),
        *_time_cells(time),
        number(no.size(candidate.bytes), candidate.bytes or None),
        number(no.megabytes(time.rss_mb) if time else "", time.rss_mb or None if time else None),
        number(no.percent(integer or 0.0, 0), integer),
        cell(pill(candidate.gate, GATES[candidate.gate]) if candidate.gate else no.NONE, class_="word"),
        cell("kept" if candidate.kept else "out", class_="word"),
        cell(_why(candidate), class_="why"),
        id=f"c-{index}",
        data_c=index,
        class_=" ".join(
            filter(
                None,
                ("failed" if candidate.gate == "fail" or candidate.error else "", "picked" if boards else ""),
            )
        )
        or None,
    )


def _how(candidate: CandidateResult) -> str:
    backend = BACKEND_NAMES.get(candidate.plan.backend, candidate.plan.backend)
    return f"{backend} on {candidate.plan.accelerator}, {candidate.plan.precision}"


def _why(candidate: CandidateResult) -> Markup:
    words = [tag("span", candidate.error, class_="no")] if candidate.error else []
    words += [tag("span", candidate.verdict)] if candidate.verdict else []
    return join(words, " ") if words else Markup(no.NONE)


def _score_cells(candidate: CandidateResult) -> tuple[Markup, ...]:
    score = candidate.score
    if score is None:
        return (number("", None),) * 3
    return (
        number(no.percent(score.value), score.value),
        number(no.points(score.drop), score.drop),
        number(interval(score), score.high),
    )


def _time_cells(time: Timing | None) -> tuple[Markup, ...]:
    if time is None:
        return (number("", None),) * 4
    values = (time.p50_ms, time.p95_ms, time.p99_ms, time.total_ms)
    return tuple(_span(value) for value in values)


def _span(value: float | None) -> Markup:
    return number("" if value is None else no.significant(value), value)


def _times(study: Study) -> Markup:
    rows = [
        _time_row(candidate, time)
        for candidate in study.candidates
        for time in sorted(candidate.timings, key=place)
    ]
    if not rows:
        return empty("No time was measured.")
    columns = (
        Column("Candidate"),
        Column("Machine"),
        *(Column(title, is_number=True) for title in _TIME_COLUMNS),
        Column("Measured"),
    )
    more = (
        f", of which the plot offers {MAX_PLACES} places" if len(plotted_places(study)) == MAX_PLACES else ""
    )
    return fold(
        f"Every time that was measured ({len(rows)}{more})",
        table("Every time that was measured", columns, rows, sorts=True),
    )


def _time_row(candidate: CandidateResult, time: Timing) -> Markup:
    spans = (time.p50_ms, time.p95_ms, time.p99_ms, time.pre_ms, time.total_ms, time.load_ms)
    return row(
        name(tag("code", candidate.plan.id)),
        cell(f"{time.profile} ({time.device})" if time.device else time.profile),
        number(str(time.threads), time.threads),
        *(_span(span) for span in spans),
        number(no.megabytes(time.rss_mb), time.rss_mb or None),
        number(no.percent(time.noise, 1), time.noise),
        number(str(time.rounds), time.rounds or None),
        cell(time.measured or no.NONE),
    )
