"""The top of the page: the warnings, and the variant that each board should run."""

from __future__ import annotations

from edgekit_optimize.report import numbers as no
from edgekit_optimize.report.figures import Verdict, cautions, interval, interval_gained, sentence, verdict
from edgekit_optimize.report.markup import Markup, join, tag
from edgekit_optimize.report.tables import empty, pill, section
from edgekit_optimize.study import Study

_BASIS = {"measured on this board": "good", "measured on this machine": "warn", "order of": "off"}


def cautions_part(study: Study) -> Markup:
    """Return the warnings, or nothing if there are none."""
    warnings = cautions(study)
    if not warnings:
        return Markup()
    heading = tag("h2", "Read this first", id="first-h")
    return tag(
        "section",
        heading,
        tag("ul", join(tag("li", warning) for warning in warnings)),
        class_="note",
        id="first",
        aria_labelledby="first-h",
    )


def verdicts_part(study: Study) -> Markup:
    """Return a card for each board: the verdict in a sentence, and its figures."""
    if not study.targets:
        return section("verdict", "Verdict", empty("No board was named, so none was chosen for."))
    cards = join(_card(study, verdict(study, target)) for target in study.targets)
    return section("verdict", "Verdict", tag("div", cards, class_="cards"))


def basis_kind(basis: str) -> str:
    """Return the colour of a choice's basis."""
    return next((kind for start, kind in _BASIS.items() if basis.startswith(start)), "off")


def _card(study: Study, found: Verdict) -> Markup:
    target = found.target
    if found.chosen is None:
        head = tag("header", tag("h3", target.title), pill("no variant", "bad"))
        return tag("article", head, tag("p", sentence(study, found)), class_="panel none")
    head = tag(
        "header",
        tag("h3", target.title),
        pill(target.basis or "basis not stated", basis_kind(target.basis)),
    )
    runs = tag("p", "runs ", tag("code", found.chosen.plan.id), class_="runs")
    why = tag("p", "Why: ", target.why, class_="faint") if target.why and not found.is_float else ""
    return tag(
        "article", head, runs, _tiles(study, found), tag("p", sentence(study, found)), why, class_="panel"
    )


def _tiles(study: Study, found: Verdict) -> Markup:
    score = found.chosen.score if found.chosen is not None else None
    speed = no.times(found.pairs[0].gain) + no.TIMES if found.pairs else no.NONE
    smaller, size_word = _size(found)
    loss = no.points(abs(score.drop)) if score is not None else no.NONE
    way = "gained" if score is not None and no.points(score.drop).startswith(no.MINUS) else "lost"
    spread = "not measured"
    if score is not None:
        spread = f"95 %: {interval(score) if way == 'lost' else interval_gained(score)}"
    if found.is_float:
        speed = f"1{no.TIMES}"
    return tag(
        "div",
        _tile(speed, "as fast as float", _where(found)),
        _tile(smaller, size_word, no.size(found.chosen.bytes) if found.chosen is not None else ""),
        _tile(loss, f"points of {study.metric} {way}", spread),
        class_="tiles",
    )


def _size(found: Verdict) -> tuple[str, str]:
    if not found.shrinks:
        return no.NONE, "smaller"
    if found.same_size:
        return f"1{no.TIMES}", "the size of float"
    if found.shrinks < 1:
        return no.times(1 / found.shrinks) + no.TIMES, "larger"
    return no.times(found.shrinks) + no.TIMES, "smaller"


def _where(found: Verdict) -> str:
    if found.is_float:
        return "it is float"
    if not found.pairs:
        return "not measured"
    first = found.pairs[0]
    where = "" if first.where.profile == found.target.profile else f", on {first.where.profile}"
    return no.milliseconds(first.ms) + where


def _tile(value: str, what: str, more: str) -> Markup:
    return tag("div", tag("strong", value), tag("span", what), tag("small", more), class_="tile")
