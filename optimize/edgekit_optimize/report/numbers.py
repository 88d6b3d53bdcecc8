"""Format numbers for people: rounded, with their unit."""

from __future__ import annotations

import math

NONE = "\N{EN DASH}"
"""Shown where there is no number."""
MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"


def significant(value: float, digits: int = 3) -> str:
    """Round to a number of significant digits, in plain notation.

    >>> significant(0.012345), significant(4.6149), significant(1234.5), significant(0.0)
    ('0.0123', '4.61', '1,234', '0')
    """
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return minus(f"{value:,.{min(decimals, 12)}f}")


def minus(number: str) -> str:
    """Replace the hyphen of a negative number by a minus sign."""
    return number.replace("-", MINUS)


def milliseconds(value: float) -> str:
    """Return a time, as ``4.61 ms``."""
    return f"{significant(value)} ms"


def size(count_bytes: float) -> str:
    """Return a file's size in decimal units, as the cards of the zoo do.

    >>> size(18_541_234), size(184_000), size(812)
    ('18.5 MB', '184 kB', '812 B')
    """
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count_bytes >= limit:
            return f"{significant(count_bytes / limit)} {unit}"
    return f"{count_bytes:.0f} B"


def megabytes(value: float) -> str:
    """Return memory, as ``98 MB``."""
    return f"{significant(value, 2) if value < 10 else f'{value:,.0f}'} MB"


def percent(value: float, decimals: int = 2) -> str:
    """Return a share from 0 to 1, as ``87.75 %``."""
    return minus(f"{100 * value:.{decimals}f} %")


def points(value: float) -> str:
    """Return a difference of two shares in percentage points, without the word.

    >>> points(0.0042), points(-0.0051) == MINUS + "0.51", points(-0.000001)
    ('0.42', True, '0.00')
    """
    return minus(f"{100 * value + 0.0:.2f}".replace("-0.00", "0.00"))


def times(value: float) -> str:
    """Return a ratio to two digits, as ``2.3``."""
    return significant(value, 2)


def duration(seconds: float) -> str:
    """Return a span of time, as ``4 min 10 s``.

    >>> duration(0.42), duration(250), duration(7300)
    ('0.42 s', '4 min 10 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{significant(seconds, 2)} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def count(number: int, noun: str) -> str:
    """Return a count with its noun: ``1 board``, ``3 boards``, ``no boards``."""
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"
