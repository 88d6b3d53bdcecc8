"""A page with a cursor says exactly whether there is another page."""

import pytest

from edgekit_fleet.web.paging import document, page_of


@pytest.mark.parametrize(
    ("rows", "page"),
    [
        ([], ([], None)),
        ([3], ([3], None)),
        ([3, 2], ([3, 2], None)),
        ([3, 2, 1], ([3, 2], 2)),
    ],
)
def test_only_a_row_beyond_the_limit_makes_a_next_page(rows, page):
    assert page_of(rows, 2, lambda row: row) == page


def test_the_api_sends_the_cursor_as_text():
    page = document([7, 6, 5], 2, lambda row: row, lambda row: {"number": row})
    assert page == {"items": [{"number": 7}, {"number": 6}], "next": "6"}
    assert document([7], 2, lambda row: row, lambda row: {"number": row})["next"] is None
