"""The card of a bundle: what the model is, float against every variant, as Markdown."""

from __future__ import annotations

import re

from edgekit_optimize.report import numbers as no
from edgekit_optimize.report.figures import (
    BACKEND_NAMES,
    Place,
    cautions,
    find,
    interval,
    places,
    sentence,
    timing_at,
    tools,
    verdict,
)
from edgekit_optimize.study import CandidateResult, Study

_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~])")


def plain(words: str) -> str:
    r"""Return a text on one line that Markdown and HTML take as text.

    >>> print(plain("a|b <script>\nc_d"))
    a\|b \<script\> c\_d
    """
    return _SPECIAL.sub(r"\\\1", " ".join(words.split())).replace("&", "&amp;")


def code(words: str, *, in_table: bool = False) -> str:
    """Return a text as code on one line; back quotes, and bars in a table, are escaped."""
    flat = " ".join(words.split())
    flat = flat.replace("|", "\\|") if in_table else flat
    fence = "`" * (max((len(run) for run in re.findall("`+", flat)), default=0) + 1)
    pad = " " if flat.startswith("`") or flat.endswith("`") else ""
    return f"{fence}{pad}{flat}{pad}{fence}" if flat else ""


def card(study: Study, title: str, license_name: str) -> str:
    """Return the card, in Markdown."""
    parts = [
        [f"# {plain(title)}"],
        _head(study, license_name),
        _cautions(study),
        ["## Quality and cost", *_means(study)],
        _table(study),
        [
            "## What each board runs",
            "",
            *(f"- {plain(sentence(study, verdict(study, target)))}" for target in study.targets),
        ],
        _left_out(study),
        _made(study),
    ]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def _head(study: Study, license_name: str) -> list[str]:
    source = "; ".join(f"{key} {value}" for key, value in sorted(study.source.items())) or "not stated"
    return [
        f"- **Model**: {plain(study.model)} {plain(study.version)}",
        f"- **Source**: {plain(source)}",
        f"- **Licence**: {plain(license_name) or 'not stated'}",
    ]


def _cautions(study: Study) -> list[str]:
    warnings = cautions(study)
    return ["## Read this first", "", *(f"- {plain(warning)}" for warning in warnings)] if warnings else []


def _means(study: Study) -> list[str]:
    data = study.data
    labels = "labelled" if data.labelled else "not labelled: the metric is agreement with float, not accuracy"
    means = (
        f"The metric is {plain(study.metric)}: {plain(study.metric_means)} "
        f"{no.count(data.evaluation, 'sample')} of "
        f"{code(data.source)}, {labels}. A variant may lose {no.points(study.max_drop)} points; the "
        "interval is of the loss, with 95 % confidence."
    )
    return ["", means]


def _table(study: Study) -> list[str]:
    where = places(study)[:1]
    kept = [candidate for candidate in study.candidates if candidate.kept]
    if not kept:
        return ["No variant is in the bundle."]
    held = find(study, study.reference)
    shown = kept if held is None or held.kept else [held, *kept]
    lines = [
        f"| variant | precision | {plain(study.metric)} | points lost | file | p50 | memory | gate |",
        "|---|---|---|---|---|---|---|---|",
        *(_row(study, candidate, where) for candidate in shown),
    ]
    if where:
        lines += ["", f"Times: {plain(where[0].words)}."]
    return lines


def _row(study: Study, candidate: CandidateResult, where: tuple[Place, ...]) -> str:
    score = candidate.score
    time = timing_at(candidate, where[0]) if where else None
    notes = [] if candidate.kept else ["not in the bundle"]
    notes += ["reference"] if candidate.plan.id == study.reference else []
    cells = (
        code(candidate.plan.id, in_table=True) + (f" ({', '.join(notes)})" if notes else ""),
        candidate.plan.precision,
        no.percent(score.value) if score else no.NONE,
        f"{no.points(score.drop)} ({interval(score)})" if score else no.NONE,
        no.size(candidate.bytes) if candidate.bytes else no.NONE,
        no.milliseconds(time.p50_ms) if time else no.NONE,
        no.megabytes(time.rss_mb) if time and time.rss_mb else no.NONE,
        ("**fails**" if candidate.gate == "fail" else candidate.gate) or "not measured",
    )
    return f"| {' | '.join(cells)} |"


def _left_out(study: Study) -> list[str]:
    """List the candidates that are not in the bundle, with the reasons."""
    out = [
        candidate
        for candidate in study.candidates
        if not candidate.kept and candidate.plan.id != study.reference
    ]
    if not out:
        return []
    lines = [
        f"- {code(candidate.plan.id)} ({BACKEND_NAMES.get(candidate.plan.backend, candidate.plan.backend)}, "
        f"{candidate.plan.precision}): {plain(_reason(study, candidate))}"
        for candidate in out
    ]
    return ["## Tried and left out", "", *lines]


def _reason(study: Study, candidate: CandidateResult) -> str:
    """Return why a candidate is not in the bundle: its error or gate, a better candidate, or a rule."""
    if candidate.error or candidate.gate == "fail":
        return candidate.error or candidate.verdict
    against = [reason for target in study.targets for reason in target.rejected.get(candidate.plan.id, ())]
    where = places(study)[:1]
    taken = [other for other in study.candidates if other.kept and _same_place(candidate, other)]
    timed = {time.total_ms: other for other in taken if where and (time := timing_at(other, where[0]))}
    mine = timing_at(candidate, where[0]) if where else None
    if timed and mine:
        best_ms = min(timed)
        return (
            f"passes the gate; {no.milliseconds(mine.total_ms)} in total, {timed[best_ms].plan.id}"
            f" takes {no.milliseconds(best_ms)}"
        )
    if taken:
        return f"{taken[0].plan.id} was chosen for the same runtime"
    return "; ".join(dict.fromkeys(against)) or candidate.verdict or "no reason was recorded"


def _same_place(candidate: CandidateResult, other: CandidateResult) -> bool:
    return (candidate.plan.backend, candidate.plan.accelerator) == (
        other.plan.backend,
        other.plan.accelerator,
    )


def _made(study: Study) -> list[str]:
    versions = ", ".join(f"{plain(name)} {plain(version)}" for name, version in tools(study))
    machine = ", ".join(f"{plain(key)} {plain(value)}" for key, value in sorted(study.machine.items()))
    return [
        "## How it was made",
        "",
        f"{code(study.command)}, {plain(study.created)}.",
        "",
        f"Machine: {machine or 'not recorded'}. Tools: {versions}.",
    ]
