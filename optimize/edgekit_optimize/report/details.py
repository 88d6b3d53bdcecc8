"""The rest of the page: boards, layers, samples, checks, data, and how to reproduce the run."""

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
    lead = "For every board: the candidates that fit, best first, and those that do not, with every reason."
    return section("boards", title, *(_board(target) for target in study.targets), lead=lead)


def _board(target: TargetResult) -> Markup:
    order = join((tag("li", tag("code", candidate)) for candidate in target.order), "")
    ranking = tag("ol", order, class_="order") if target.order else empty("No candidate fits.")
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
    """Return the rejected candidates, grouped by their reasons."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for candidate, reasons in target.rejected.items():
        groups.setdefault(reasons, []).append(candidate)
    rows = [
        row(name(join((tag("code", candidate_id) for candidate_id in ids), " ")), cell(_reasons(reasons)))
        for reasons, ids in groups.items()
    ]
    return table(f"Rejected for {target.title}", (Column("Candidate"), Column("Reasons")), rows)


def _reasons(reasons: tuple[str, ...]) -> Markup:
    if not reasons:
        return tag("p", "no reason was given")
    return tag("ul", *(tag("li", reason) for reason in reasons), class_="reasons")


def layers_part(study: Study) -> Markup:
    """Return the effect of quantising each layer alone, worst first."""
    title = "Sensitivity of the layers"
    if not study.sensitivity:
        why = (
            "No layer was measured: that is done if quantising the whole model costs too much, "
            "to find the layers to leave in float."
        )
        return section("layers", title, empty(why))
    worst = sorted(study.sensitivity, key=lambda layer: (layer.sqnr_db, layer.agreement, layer.layer))
    lead = (
        "Each layer quantised alone, worst first. The bar is the noise at the model's outputs relative "
        "to the signal; 20 dB is a tenth, 40 dB a hundredth."
    )
    longest = max(_noise(layer) for layer in worst)
    rows = [_layer(layer, longest) for layer in worst[:MAX_BARS]]
    columns = (
        Column("Layer"),
        Column("Operator"),
        Column("Noise relative to signal"),
        Column("Signal to noise, dB", is_number=True),
        Column("Same answer", is_number=True),
        Column("Share of the work", is_number=True),
    )
    parts = [table("Sensitivity of the layers, worst first", columns, rows, class_="panel")]
    if len(worst) > MAX_BARS:
        rest = [_layer(layer, longest) for layer in worst[MAX_BARS:]]
        parts.append(fold(f"The other {len(rest)} layers", table("The other layers", columns, rest)))
    return section("layers", title, *parts, lead=lead)


def _noise(layer: LayerSensitivity) -> float:
    """Return the noise's amplitude relative to the signal's, bounded for a bar."""
    return float(10 ** (-min(max(layer.sqnr_db, -20.0), 200.0) / 20))


def _layer(layer: LayerSensitivity, longest: float) -> Markup:
    noise = _noise(layer)
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
        name(tag("code", layer.layer)),
        cell(layer.operator),
        cell(join([bar, tag("small", f"{no.significant(100 * noise, 2)} %")]), class_="bars"),
        number(no.minus(f"{layer.sqnr_db:.1f}"), layer.sqnr_db),
        number(no.percent(layer.agreement, 1), layer.agreement),
        number(no.percent(layer.multiply_adds, 1), layer.multiply_adds),
    )


def samples_part(study: Study) -> Markup:
    """Return the chosen variants' worst samples, each with the float model's answer."""
    title = "Worst samples"
    if not study.worst:
        return section("samples", title, empty("None: no variant was chosen, or none differs from float."))
    shown = study.worst[:MAX_SAMPLES]
    groups = dict.fromkeys(sample.candidate for sample in shown)
    parts: list[str] = []
    for candidate in groups:
        cards = [_sample(sample) for sample in shown if sample.candidate == candidate]
        parts += [tag("h3", tag("code", candidate)), tag("div", *cards, class_="samples")]
    left = len(study.worst) - len(shown)
    more = empty(f"{left} more are in report.json.") if left else ""
    lead = "The samples of the evaluation set where the variant differs most from the float model."
    return section("samples", title, *parts, more, lead=lead)


def _sample(sample: Sample) -> Markup:
    picture = (
        tag("img", src=sample.picture, alt=f"sample {sample.name}", loading="lazy")
        if _PICTURE.fullmatch(sample.picture)
        else tag("div", "no picture" if not sample.picture else "not a PNG: not shown", class_="no-picture")
    )
    facts = tag(
        "dl",
        *_pair("wanted", sample.wanted or "not labelled"),
        *_pair("float", sample.reference),
        *_pair("variant", sample.found),
    )
    apart = pill(f"{no.significant(sample.difference)} apart", "off")
    return tag("article", picture, tag("h4", sample.name, " ", apart), facts, class_="panel sample")


def _pair(term: str, value: str) -> tuple[Markup, Markup]:
    return tag("dt", term), tag("dd", value)


def checks_part(study: Study) -> Markup:
    """Return how much each conversion changed the model's outputs."""
    title = "Conversion checks"
    if not study.checks:
        return section(
            "checks", title, empty("No conversion was needed: the model ran in its original format.")
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
            name(check.conversion),
            cell(check.tool),
            number(str(check.samples), check.samples),
            number(f"{check.max_abs:.2g}", check.max_abs),
            number(no.significant(check.scale), check.scale),
            number(f"{check.max_abs / max(check.scale, 1e-6):.1g}", check.max_abs / max(check.scale, 1e-6)),
            number(f"{check.limit:.1g}", check.limit),
            cell(pill("holds", "good") if check.holds else pill("does not hold", "bad")),
        )
        for check in study.checks
    ]
    lead = "Each converted model compared with its source, on real inputs."
    return section("checks", title, table("Conversion checks", columns, rows, class_="panel"), lead=lead)


def data_part(study: Study) -> Markup:
    """Return the data, the meaning of the metric, and the gates."""
    data = study.data
    overlap = (
        f"{data.dropped_overlap} removed from the evaluation because they are in the calibration too"
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
        "Reproduce",
        tag("pre", tag("code", study.command), tabindex=0),
        tag("div", facts, class_="panel"),
        tag(
            "div",
            _list("Machine", sorted(study.machine.items()), "No facts about the machine were recorded."),
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
            name(tag("code", candidate.plan.id), tag("small", f"of {candidate.plan.root}")),
            cell(candidate.plan.technique),
            cell(_options(candidate), class_="why"),
            number("cached" if candidate.cached else no.duration(candidate.make_s), candidate.make_s),
            cell(tag("code", candidate.sha256) if candidate.sha256 else no.NONE),
        )
        for candidate in candidates
    ]
    return fold(
        f"How each of the {len(rows)} candidates was made",
        table("How each candidate was made", columns, rows),
    )


def _options(candidate: CandidateResult) -> Markup:
    plan = candidate.plan
    parts: list[str] = []
    for said, value in (("", plan.options), ("at run time: ", plan.runtime)):
        if value:
            parts.append(tag("code", said, msgspec.json.encode(value, order="sorted").decode()))
    if plan.same_as:
        parts.append(f"the files of {plan.same_as}")
    return join([*parts, *candidate.notes], ". ") if parts or candidate.notes else Markup(no.NONE)
