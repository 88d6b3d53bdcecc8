"""``[[profile]]``: what a pipeline does by day, by night, or while somebody works on it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec

from edgekit.core.spec import NAME
from edgekit.pipeline.check import Options

_TIME = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]")
AUTO = "auto"
WORDS = ("on", "off", AUTO)
"""Commands that no profile may be named after."""


class ProfileTable(Options, frozen=True, kw_only=True):
    """One profile.

    ``starts``: the device's local time, such as ``"22:00"``, at which it begins each day; without it, it is
    only chosen by hand. ``run``: whether the pipeline takes frames. ``score_threshold``: in place of the
    pipeline's.
    """

    name: str
    starts: str = ""
    run: bool = True
    score_threshold: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None

    def problems(self) -> Iterable[str]:
        """Report a name that cannot be used, and a time that is none."""
        if self.starts and not _TIME.fullmatch(self.starts):
            yield f'starts: want a time such as "07:00" or "22:30", got {self.starts!r}'
        if not NAME.fullmatch(self.name) or self.name in WORDS:
            yield (
                f"name: want lower-case letters, digits, '.', '_', '-', and not {', '.join(WORDS)}, "
                f"got {self.name!r}"
            )


def profile_problems(tables: Sequence[ProfileTable | None], *, has_track: bool) -> Iterable[str]:
    """Report what is wrong with a pipeline's profiles together."""
    rows = [table for table in tables if table is not None]
    for key in ("name", "starts"):
        values = [getattr(row, key) for row in rows if getattr(row, key)]
        yield from (
            f"profile: the {key} {v!r} stands twice" for v in {v for v in values if values.count(v) > 1}
        )
    if len({row.score_threshold is None for row in rows}) > 1:
        yield "profile: want score_threshold in every profile or in none"
    elif rows and rows[0].score_threshold is not None and has_track:
        yield "profile: want no score_threshold beside [track], which has thresholds of its own"


def scheduled(tables: Sequence[ProfileTable], clock: str) -> ProfileTable | None:
    """Return the profile that began last by the clock; None where none has a time.

    >>> day, night = ProfileTable(name="day", starts="07:00"), ProfileTable(name="night", starts="22:00")
    >>> [scheduled((day, night), clock).name for clock in ("06:59", "07:00", "23:00")]
    ['night', 'day', 'night']

    Args:
        tables: The profiles.
        clock: The local time, such as ``"06:59"``.
    """
    timed = sorted((row for row in tables if row.starts), key=lambda row: row.starts)
    begun = [row for row in timed if row.starts <= clock]
    return begun[-1] if begun else timed[-1] if timed else None
