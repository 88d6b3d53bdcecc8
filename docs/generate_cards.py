# ruff: noqa: INP001 - a script beside the documents
"""Writes the tables of the zoo's cards: float against every variant that was tried, failures too.

Run after ``edgekit optimize zoo:NAME -o REPORTS/NAME/bundle``, for one model or more:

    python docs/generate_cards.py REPORTS

``REPORTS/NAME/report.json`` fills what stands between the marks in ``models/NAME/card.md``; the
rest of a card is written by hand. A test compares the shape of the tables with the recipes.
"""

from __future__ import annotations

import sys
from pathlib import Path

from edgekit.core.errors import EdgekitError, UsageError
from edgekit_optimize.report import numbers as no
from edgekit_optimize.report.card import code, plain
from edgekit_optimize.report.figures import find, interval, places, sentence, timing_at, verdict
from edgekit_optimize.report.write import read_study
from edgekit_optimize.study import CandidateResult, Study
from edgekit_optimize.zoo.recipe import Recipe, models_folder, recipe

BEGIN = "<!-- begin: written by docs/generate_cards.py, not by hand -->"
END = "<!-- end -->"
TOOLS = ("ai-edge-litert", "onnxruntime", "openvino", "nncf", "litert-quantizer")
RENAMED = "The bundle of `zoo build` has its `-exact` candidates without that ending."
HEAD = (
    "| candidate | precision | {metric} | points lost (95 %) | p50 | file | memory | gate |",
    "|---|---|---|---|---|---|---|---|",
)


def main(arguments: list[str]) -> int:
    """Fill the cards of the models that there are reports of."""
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return UsageError.exit_code
    reports = sorted(Path(arguments[0]).glob("*/report.json"))
    try:
        for report in reports:
            fill(models_folder() / report.parent.name / "card.md", read_study(report))
    except EdgekitError as error:
        print(error.render(), file=sys.stderr)
        return error.exit_code
    print(f"{len(reports)} cards written")
    return 0


def fill(card: Path, study: Study) -> None:
    """Put a study's table between the marks of a card.

    Raises:
        UsageError: The card has no marks.
    """
    before, begin, rest = card.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UsageError(f"{card} lacks the marks between which the table goes", hint=f"{BEGIN} and {END}")
    text = "\n".join(section(study, shipped(recipe(study.model))))
    card.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def shipped(found: Recipe) -> frozenset[str]:
    """Return the ids of the candidates that ``edgekit zoo build`` makes.

    The recipe's int8 ONNX file has the integers of its TensorFlow Lite file: the search calls that exact.
    """
    return frozenset(
        f"{variant.id}-exact" if variant.writer == "onnx-int8" else variant.id for variant in found.variant
    )


def section(study: Study, ships: frozenset[str]) -> list[str]:
    """Return the section's lines: how it was measured, every candidate, what each board got.

    Args:
        study: The run.
        ships: The ids of the candidates that ``edgekit zoo build`` makes.
    """
    ranked = sorted(study.candidates, key=lambda one: _rank(study, one))
    rows = [_row(study, one, ships) for one in ranked if not one.error]
    failed = [f"- {code(one.plan.id)}: {plain(one.error)}" for one in ranked if one.error]
    said = [f"- {plain(sentence(study, verdict(study, target)))}" for target in study.targets]
    renamed = any(name.endswith("-exact") for name in ships)
    return [
        "## Float against every variant that was tried",
        "",
        _how(study) + (f" {RENAMED}" if renamed else ""),
        "",
        HEAD[0].format(metric=plain(study.metric)),
        HEAD[1],
        *rows,
        *(["", "Could not be made or run:", "", *failed] if failed else []),
        "",
        "What the search chose for each board, of what holds the gate:",
        "",
        *said,
    ]


def _how(study: Study) -> str:
    data, machine = study.data, study.machine
    versions = ", ".join(f"{name} {study.versions[name]}" for name in TOOLS if name in study.versions)
    where = places(study)[0].words if places(study) else "nowhere"
    parts = (
        f"{code(study.command)}, {study.created[:10]}, edgekit {study.edgekit};",
        f"{plain(machine.get('cpu', ''))}, {machine.get('cores', '')} cores that other work shared, so read",
        f"the ratios; times: {where}; Python {machine.get('python', '')}, {versions}.",
        f"{plain(study.metric)}: {plain(study.metric_means)} {no.count(data.evaluation, 'sample')} evaluate,",
        f"{data.calibration} calibrate, none does both; the gate is {no.points(study.max_drop)} points.",
        "**Bold** candidates are those that `edgekit zoo build` makes.",
    )
    return " ".join(parts)


def _rank(study: Study, one: CandidateResult) -> tuple[bool, bool, float, str]:
    """Float first, then by time, then what was not timed here."""
    total_ms = one.timings[0].total_ms if one.timings else float("inf")
    return one.plan.id != study.reference, bool(one.error), total_ms, one.plan.id


def _row(study: Study, one: CandidateResult, ships: frozenset[str]) -> str:
    score = one.score
    where = places(study)[:1]
    time = timing_at(one, where[0]) if where else None
    name = code(one.plan.id, in_table=True)
    gate = {"pass": "holds", "fail": "**fails**"}.get(one.gate, "not measured")
    if one.plan.id == study.reference:
        gate = "is float"
    base = find(study, f"{one.plan.backend}-fp32")
    own = timing_at(base, where[0]) if base is not None and where else None
    if time is not None and own is not None and base is not one and time.total_ms > own.total_ms * 1.02:
        gate += f", slower than {code(base.plan.id, in_table=True)}" if base else ""
    cells = (
        f"**{name}**" if one.plan.id in ships else name,
        one.plan.precision,
        no.percent(score.value) if score else no.NONE,
        f"{no.points(score.drop)} ({interval(score)})" if score else no.NONE,
        no.milliseconds(time.p50_ms) if time else no.NONE,
        no.size(one.bytes) if one.bytes else no.NONE,
        no.megabytes(time.rss_mb) if time and time.rss_mb else no.NONE,
        gate,
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
