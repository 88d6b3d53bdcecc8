"""Tables that screen readers can read and a click on a header sorts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgekit_optimize.report import numbers as no
from edgekit_optimize.report.markup import Attribute, Markup, join, tag


@dataclass(frozen=True)
class Column:
    """A column: its name, whether it has numbers, and an explanation if it needs one."""

    name: str
    is_number: bool = False
    means: str = ""


def cell(content: str, value: float | None = None, **attributes: Attribute) -> Markup:
    """Return a cell; a column of numbers sorts by ``value``."""
    return tag("td", content, data_v=value, **attributes)


def number(content: str, value: float | None) -> Markup:
    """Return a cell of a column of numbers; without a value it sorts last."""
    if value is None:
        return tag("td", no.NONE, class_="n", data_v="")
    return tag("td", content, class_="n", data_v=value)


def row(*cells: str, **attributes: Attribute) -> Markup:
    """Return a row."""
    return tag("tr", *cells, **attributes)


def table(
    caption: str, columns: Sequence[Column], rows: Iterable[str], *, sorts: bool = False, class_: str = ""
) -> Markup:
    """Return a table in a frame that scrolls on narrow pages.

    Args:
        caption: The table's title for screen readers, not shown.
        columns: One for each cell of a row; the first cell of a row is its header.
        rows: Made by ``row``.
        sorts: Whether its headers sort it.
        class_: For the frame.
    """
    head = tag("tr", *(_head(column, sorts=sorts) for column in columns))
    inner = tag(
        "table",
        tag("caption", caption, class_="unseen"),
        tag("thead", head),
        tag("tbody", join(rows)),
        class_="sorts" if sorts else None,
    )
    return tag("div", inner, class_=f"scroll {class_}".strip(), tabindex=0, role="region", aria_label=caption)


def _head(column: Column, *, sorts: bool) -> Markup:
    content = tag("button", column.name, type="button") if sorts else column.name
    return tag(
        "th", content, scope="col", class_="n" if column.is_number else None, title=column.means or None
    )


def name(content: str, *more: str) -> Markup:
    """Return the cell that names its row."""
    return tag("th", content, *more, scope="row")


def pill(words: str, kind: str) -> Markup:
    """Return a word in a coloured capsule; the colour adds nothing to the word."""
    return tag("span", words, class_=f"pill {kind}")


def empty(why: str) -> Markup:
    """Return the text for an empty part: the reason why it is empty."""
    return tag("p", why, class_="empty")


def section(id_: str, title: str, *content: str, lead: str = "") -> Markup:
    """Return a section of the page with its heading."""
    return tag(
        "section",
        tag("h2", title, id=f"{id_}-h"),
        tag("p", lead, class_="lead") if lead else "",
        *content,
        id=id_,
        aria_labelledby=f"{id_}-h",
    )


def fold(summary: str, *content: str, is_open: bool = False) -> Markup:
    """Return content that can be unfolded; it is printed unfolded."""
    return tag("details", tag("summary", summary), *content, open=is_open)
