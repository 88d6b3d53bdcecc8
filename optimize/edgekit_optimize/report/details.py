"""The rest of the page: boards, layers, samples, checks, data, and how to do it again."""

from __future__ import annotations

import re

import msgspec

from edgekit_optimize.report import numbers as no
from edgekit_optimize.report.figures import tools
from edgekit_optimize.report.markup import Markup, join, tag
from edgekit_optimize.report.tables import Column, cell, empty, fold, name, number, pill, row, section, table
from edgekit_optimize.report.verdicts import basis_kind
from edgekit_optimize.study import CandidateResult, LayerSensitivity, Sample, Study, TargetResult

MAX_BARS = 20
MAX_SAMPLES = 60
_PICTURE = re.compile(r"data:image/png;base64,[A-Za-z0-9+/]+={0,2}")


def boards_part(study: Study) -> Markup:
    """Return, for each board, its order of preference and every rejection with every reason."""
    title = "Why not the others"
    if not study.targets:
        return section("boards", title, empty("No board was named."))
    lead = "For every board: what could be chosen, best first, and what could not, with every reason."
    return section("boards", title, *(_board(one) for one in study.targets), lead=lead)


def _board(target: TargetResult) -> Markup:
    order = join((tag("li", tag("code", one)) for one in target.order), "")
    ranking = tag("ol", order, class_="order") if target.order else empty("Nothing was left to choose from.")
    rejected = _rejected(target) if target.rejected else empty("No candidate was rejected for this board.")
    summary = join(
        [
            tag("b", target.title),
            f" {no.count(len(target.rejected), 'candidate')} rejected ",
            pill(target.chosen or "no variant", basis_kind(target.basis) if target.chosen else "bad"),
        ]
    )
    return fold(summary, tag("h4", "In order"), ranking, tag("h4", "Rejected"), rejected)


def _rejected(target: TargetResult) -> Markup:
    """Candidates that have the same reasons share a row; no reason is left out."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for candidate, reasons in target.rejected.items():
        groups.setdefault(reasons, []).append(candidate)
    rows = [
        row(name(join((tag("code", one) for one in ids), " ")), cell(_reasons(reasons)))
        for reasons, ids in groups.items()
    ]
    return table(f"Rejected for {target.title}", (Column("Candidate"), Column("Reasons")), rows)


def _reasons(reasons: tuple[str, ...]) -> Markup:
    if not reasons:
        return tag("p", "no reason was given")
    return tag("ul", *(tag("li", one) for one in reasons), class_="reasons")


def layers_part(study: Study) -> Markup:
    """Return what quantising each layer alone does, worst first."""
    title = "Sensitivity of the layers"
    if not study.sensitivity:
        why = (
            "No layer was measured: that is done where quantising the whole model costs too much, "
            "to find the layers to leave in float."
        )
        return section("layers", title, empty(why))
    worst = sorted(study.sensitivity, key=lambda one: (one.sqnr_db, one.agreement, one.layer))
    lead = (
        "Each layer quantised alone, worst first. The bar is the noise at the model's outputs against "
        "the signal; 20 dB is a tenth, 40 dB a hundredth."
    )
    longest = max(_noise(one) for one in worst)
    rows = [_layer(one, longest) for one in worst[:MAX_BARS]]
    columns = (
        Column("Layer"),
        Column("Operator"),
        Column("Noise against the signal"),
        Column("Signal to noise, dB", is_number=True),
        Column("Same answer", is_number=True),
        Column("Share of the work", is_number=True),
    )
    parts = [table("Sensitivity of the layers, worst first", columns, rows, class_="panel")]
    if len(worst) > MAX_BARS:
        rest = [_layer(one, longest) for one in worst[MAX_BARS:]]
        parts.append(fold(f"The other {len(rest)} layers", table("The other layers", columns, rest)))
    return section("layers", title, *parts, lead=lead)


def _noise(one: LayerSensitivity) -> float:
    """Amplitude of the noise against the signal's; bounded, for a bar."""
    return float(10 ** (-min(max(one.sqnr_db, -20.0), 200.0) / 20))


def _layer(one: LayerSensitivity, longest: float) -> Markup:
    noise = _noise(one)
    bar = tag(
        "svg",
        tag("rect", width=100, height=8, class_="back"),
        tag("rect", width=round(100 * noise / longest, 2), height=8, class_="long"),
        class_="bar",
        viewBox="0 0 100 8",
        preserveAspectRatio="none",
        aria_hidden="true",
    )
    return row(
        name(tag("code", one.layer)),
        cell(one.operator),
        cell(join([bar, tag("small", f"{no.significant(100 * noise, 2)} %")]), class_="bars"),
        number(no.minus(f"{one.sqnr_db:.1f}"), one.sqnr_db),
        number(no.percent(one.agreement, 1), one.agreement),
        number(no.percent(one.multiply_adds, 1), one.multiply_adds),
    )


def samples_part(study: Study) -> Markup:
    """Return the samples that the chosen variants got most wrong, beside the float model's answer."""
    title = "Worst samples"
    if not study.worst:
        return section("samples", title, empty("None: no variant was chosen, or none differs from float."))
    shown = study.worst[:MAX_SAMPLES]
    groups = dict.fromkeys(one.candidate for one in shown)
    parts: list[str] = []
    for candidate in groups:
        cards = [_sample(one) for one in shown if one.candidate == candidate]
        parts += [tag("h3", tag("code", candidate)), tag("div", *cards, class_="samples")]
    left = len(study.worst) - len(shown)
    more = empty(f"{left} more stand in report.json.") if left else ""
    lead = "Where the variant's answer lies farthest from the float model's, on the evaluation set."
    return section("samples", title, *parts, more, lead=lead)


def _sample(one: Sample) -> Markup:
    picture = (
        tag("img", src=one.picture, alt=f"sample {one.name}", loading="lazy")
        if _PICTURE.fullmatch(one.picture)
        else tag("div", "no picture" if not one.picture else "not a PNG: not shown", class_="no-picture")
    )
    facts = tag(
        "dl",
        *_pair("wanted", one.wanted or "not labelled"),
        *_pair("float", one.reference),
        *_pair("variant", one.found),
    )
    apart = pill(f"{no.significant(one.difference)} apart", "off")
    return tag("article", picture, tag("h4", one.name, " ", apart), facts, class_="panel sample")


def _pair(term: str, value: str) -> tuple[Markup, Markup]:
    return tag("dt", term), tag("dd", value)


def checks_part(study: Study) -> Markup:
    """Return how exactly each conversion kept the model's meaning."""
    title = "Conversion checks"
    if not study.checks:
        return section(
            "checks", title, empty("No conversion was needed: the model ran in the form it came in.")
        )
    columns = (
        Column("Conversion"),
        Column("Tool"),
        Column("Samples", is_number=True),
        Column("Largest difference", is_number=True),
        Column("Largest output", is_number=True),
        Column("Relative", is_number=True),
        Column("Limit", is_number=True),
        Column("Result"),
    )
    rows = [
        row(
            name(one.conversion),
            cell(one.tool),
            number(str(one.samples), one.samples),
            number(f"{one.max_abs:.2g}", one.max_abs),
            number(no.significant(one.scale), one.scale),
            number(f"{one.max_abs / max(one.scale, 1e-6):.1g}", one.max_abs / max(one.scale, 1e-6)),
            number(f"{one.limit:.1g}", one.limit),
            cell(pill("holds", "good") if one.holds else pill("does not hold", "bad")),
        )
        for one in study.checks
    ]
    lead = "The converted model against the one it came from, on real inputs."
    return section("checks", title, table("Conversion checks", columns, rows, class_="panel"), lead=lead)


def data_part(study: Study) -> Markup:
    """Return which data decided, what the metric means and where the gates stand."""
    data = study.data
    overlap = (
        f"{data.dropped_overlap} taken out of the evaluation because they are in the calibration too"
        if data.dropped_overlap
        else "none found"
    )
    labels = "yes" if data.labelled else "no: the metric is agreement with the float model, not accuracy"
    facts = tag(
        "dl",
        *_pair("source", data.source),
        *_pair("calibration", no.count(data.calibration, "sample")),
        *_pair("evaluation", no.count(data.evaluation, "sample")),
        *_pair("overlap", overlap),
        *_pair("labelled", labels),
        *_pair("metric", f"{study.metric}: {study.metric_means}"),
        *_pair("gate", f"at most {no.points(study.max_drop)} points lost against {study.reference}"),
        *_pair("time budget", no.milliseconds(study.budget_ms) if study.budget_ms else "none"),
        *_pair("size budget", f"{study.budget_mb:g} MB" if study.budget_mb else "none"),
        *_pair("SHA-256", data.sha256 or "not stated"),
    )
    return section("data", "Data and gates", tag("div", facts, class_="panel"))


def reproduce_part(study: Study) -> Markup:
    """Return the command, the versions, the machine and the hashes."""
    facts = tag(
        "dl",
        *_pair("made", f"{study.created}, in {no.duration(study.seconds)}"),
        *_pair("bundle", study.bundle or "none was written"),
        *(part for key, value in sorted(study.source.items()) for part in _pair(f"model {key}", value)),
    )
    return section(
        "again",
        "Do it again",
        tag("pre", tag("code", study.command), tabindex=0),
        tag("div", facts, class_="panel"),
        tag(
            "div",
            _list("Machine", sorted(study.machine.items()), "No fact of the machine was recorded."),
            _list("Tools", tools(study), "No version was recorded."),
            class_="columns",
        ),
        _made(study.candidates),
    )


def _list(title: str, facts: list[tuple[str, str]] | tuple[tuple[str, str], ...], why: str) -> Markup:
    inner = tag("dl", *(part for key, value in facts for part in _pair(key, value))) if facts else empty(why)
    return tag("div", tag("h3", title), inner, class_="panel")


def _made(candidates: tuple[CandidateResult, ...]) -> Markup:
    columns = (
        Column("Candidate"),
        Column("Technique"),
        Column("Options and notes"),
        Column("Made in", is_number=True),
        Column("SHA-256"),
    )
    rows = [
        row(
            name(tag("code", one.plan.id), tag("small", f"of {one.plan.root}")),
            cell(one.plan.technique),
            cell(_options(one), class_="why"),
            number("cached" if one.cached else no.duration(one.make_s), one.make_s),
            cell(tag("code", one.sha256) if one.sha256 else no.NONE),
        )
        for one in candidates
    ]
    return fold(
        f"How each of the {len(rows)} candidates was made",
        table("How each candidate was made", columns, rows),
    )


def _options(one: CandidateResult) -> Markup:
    plan = one.plan
    parts: list[str] = []
    for said, value in (("", plan.options), ("at run time: ", plan.runtime)):
        if value:
            parts.append(tag("code", said, msgspec.json.encode(value, order="sorted").decode()))
    if plan.same_as:
        parts.append(f"the files of {plan.same_as}")
    return join([*parts, *one.notes], ". ") if parts or one.notes else Markup(no.NONE)
