"""Build HTML in which everything that is not already markup is escaped."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

_VOID = frozenset({"br", "img", "input", "link", "meta"})

Attribute = str | int | float | bool | None


class Markup(str):
    """Text that is already HTML; everything else is escaped before it is joined to it."""

    __slots__ = ()


def text(value: str) -> Markup:
    """Return a text as HTML: markup unchanged, anything else escaped."""
    return value if isinstance(value, Markup) else Markup(escape(value, quote=True))


def join(parts: Iterable[str], between: str = "") -> Markup:
    """Return the parts one after the other, each escaped unless it is markup."""
    return Markup(text(between).join(text(part) for part in parts))


def tag(name: str, /, *children: str, **attributes: Attribute) -> Markup:
    """Return an element; its children and the values of its attributes are escaped.

    >>> tag("td", "a < b", class_="n", data_v=1.5, hidden=False)
    '<td class="n" data-v="1.5">a &lt; b</td>'
    >>> tag("code", tag("b", "<script>"))
    '<code><b>&lt;script&gt;</b></code>'

    Args:
        name: The element's name; from the program, never from data.
        children: Texts and markup.
        attributes: By name, from the program; ``_`` stands for ``-``, one at the end is dropped.
            None and False leave an attribute out, True sets it without a value.
    """
    inner = "".join(f" {_attribute(key, value)}" for key, value in attributes.items() if _is_set(value))
    if name in _VOID:
        return Markup(f"<{name}{inner}>")
    return Markup(f"<{name}{inner}>{join(children)}</{name}>")


def _is_set(value: Attribute) -> bool:
    return value is not None and value is not False


def _attribute(key: str, value: Attribute) -> str:
    name = key.rstrip("_").replace("_", "-")
    if value is True:
        return name
    shown = f"{value:.6g}" if isinstance(value, float) else str(value)
    return f'{name}="{escape(shown, quote=True)}"'
