"""A model of a worker that is closed while a swap of it is under way."""

from __future__ import annotations

import threading

import pytest
from bundles import make_bundle

from edgekit.agent.ipc import Host, Swap, SwapFailed, Swapped, TrialProgress
from edgekit.agent.worker.shared_model import SharedModel
from edgekit.model.holder import Holder

WAIT_S = 60.0


@pytest.mark.parametrize("stage", ["loading", "ready"])
def test_a_swap_of_a_model_that_is_closed_says_so_and_leaves_no_bundle_open(tmp_path, monkeypatch, stage):
    opened, closed, answers = [], [], []
    has_answered, close, init = threading.Event(), Holder.close, Holder.__init__
    monkeypatch.setattr(
        Holder, "__init__", lambda self, *args: (init(self, *args), opened.append(self), None)[-1]
    )
    monkeypatch.setattr(Holder, "close", lambda self: (closed.append(self), close(self), None)[-1])

    def send(message):
        if isinstance(message, TrialProgress) and message.stage == stage:
            model.close()
        if isinstance(message, Swapped | SwapFailed):
            answers.append(message)
            has_answered.set()

    model = SharedModel(Host(model="motor", path=str(make_bundle(tmp_path / "1"))), send)
    model.open()
    second = make_bundle(tmp_path / "2", version="2.0.0")
    model.swap(Swap(model="motor", swap=1, purpose="trial", path=str(second)))
    assert has_answered.wait(WAIT_S)
    assert isinstance(answers[0], SwapFailed)
    assert "was closed" in answers[0].reason
    assert len(opened) == 2
    assert set(closed) == set(opened)
