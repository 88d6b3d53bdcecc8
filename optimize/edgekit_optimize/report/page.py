"""The report as one HTML file, which loads nothing from the network and runs one small script."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files

from edgekit_optimize.report.candidates import plot_part, table_part
from edgekit_optimize.report.details import (
    boards_part,
    checks_part,
    data_part,
    layers_part,
    reproduce_part,
    samples_part,
)
from edgekit_optimize.report.markup import Markup, join, tag
from edgekit_optimize.report.verdicts import cautions_part, verdicts_part
from edgekit_optimize.study import Study

_PARTS = {
    "verdict": "Verdict",
    "plot": "Plot",
    "candidates": "Candidates",
    "boards": "Boards",
    "layers": "Layers",
    "samples": "Samples",
    "checks": "Checks",
    "data": "Data",
    "again": "Reproduce",
}


def page(study: Study) -> str:
    """Return the report as one HTML document.

    Its content security policy allows only this style and script (by hash) and embedded pictures, so
    even text that slipped through the escaping could neither run nor load anything.
    """
    style, script = _own("report.css"), _own("report.js")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_policy(style, script)),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"{study.model} {study.version}: compression report"),
        tag("link", rel="icon", href="data:,"),
        tag("style", Markup(style)),
    )
    body = tag("body", _top(), _main(study), _foot(study), tag("script", Markup(script)))
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _own(name: str) -> str:
    return files(__package__).joinpath(name).read_text("utf-8")


def _policy(style: str, script: str) -> str:
    rules = (
        "default-src 'none'",
        f"style-src '{_digest(style)}'",
        f"script-src '{_digest(script)}'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    )
    return "; ".join(rules)


def _digest(content: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"


def _top() -> Markup:
    cube = Markup(
        '<svg viewBox="0 0 24 24" aria-hidden="true"><path d="M12 3l8 4.5v9L12 21l-8-4.5v-9z"/></svg>'
    )
    links = (tag("a", words, href=f"#{key}") for key, words in _PARTS.items())
    return tag(
        "div",
        tag("a", "Skip to the verdict", href="#verdict", class_="skip"),
        tag("span", cube, "edgekit ", tag("span", "optimize"), class_="brand"),
        tag("nav", join(links), aria_label="Parts of the report"),
        class_="top",
    )


def _main(study: Study) -> Markup:
    heading = tag(
        "header",
        tag("h1", study.model, " ", tag("small", study.version)),
        tag("p", f"Compression report, {study.created}, edgekit {study.edgekit}", class_="faint"),
    )
    parts = (
        cautions_part(study),
        verdicts_part(study),
        plot_part(study),
        table_part(study),
        boards_part(study),
        layers_part(study),
        samples_part(study),
        checks_part(study),
        data_part(study),
        reproduce_part(study),
    )
    return tag("main", heading, *parts)


def _foot(study: Study) -> Markup:
    return tag(
        "footer",
        f"Everything here is in report.json too (format {study.format}). "
        "How to read it: docs/optimize.md of edgekit.",
    )
