"""A request to a model whose versions share its requests, as a server of one process takes it."""

import numpy as np
import pytest
from scripted import doubling, served

from edgekit.serve.hosting import Row, Table
from edgekit.serve.models import READY
from edgekit.serve.siblings import FORWARDED, Siblings
from edgekit.serve.traffic import Traffic

X = np.arange(4, dtype=np.float32)


def row(version):
    return Row(
        name="double",
        version=version,
        state=READY,
        reason="",
        should_load=True,
        pid=1,
        restarts=0,
        is_answering=True,
    )


@pytest.fixture
def sharing(monkeypatch):
    """A server of versions 1 and 2, of which a test sets the rows and the shares."""
    siblings = Siblings()
    monkeypatch.setattr("edgekit.serve.app.Siblings", lambda: siblings)
    with served(doubling(version="1")[0], doubling(version="2")[0]) as server:
        server.siblings = siblings
        yield server


def test_where_no_version_with_a_share_is_on_the_device_the_answer_is_503_and_names_them(sharing):
    sharing.siblings.table = Table((row("1"), row("2")), traffic=(Traffic("double", {"3": 60, "4": 40}),))
    answer = sharing.infer(X)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["error"].endswith("no version with a share of its requests is (3, 4)")
    sharing.siblings.table = Table((row("1"), row("2")), traffic=(Traffic("double", {"2": 100}),))
    assert sharing.infer(X).json()["model_version"] == "2"


def test_a_forwarded_request_is_for_the_version_whose_turn_it_was_and_for_the_newest_once_that_has_gone(
    sharing,
):
    sharing.siblings.table = Table((row("1"), row("2")), traffic=(Traffic("double", {"2": 100}),))
    for forwarded, answers in (("1", "1"), ("2", "2"), ("7", "2")):
        sharing.client.headers[FORWARDED.decode()] = forwarded
        assert sharing.infer(X).json()["model_version"] == answers
