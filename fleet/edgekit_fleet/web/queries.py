"""Types of query parameters, each with a bound: beyond it a request is answered with 422."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

MAX_ROW = 1 << 62
MAX_UNIX_MS = 253_402_300_799_999
"""The end of the year 9999."""

Text = Annotated[str, Query(max_length=200)]
"""A name, an id, or a part of one."""
Row = Annotated[int | None, Query(ge=0, le=MAX_ROW)]
"""A cursor: the number of the last row shown."""
UnixMs = Annotated[int | None, Query(ge=0, le=MAX_UNIX_MS)]
PageNumber = Annotated[int, Query(ge=1, le=1_000_000)]
"""The number of a page, from 1."""
