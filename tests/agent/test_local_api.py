"""Local programs as one more user of a worker's model, through swaps, losses and lanes."""

import asyncio
import threading

import numpy as np
import pytest
from bundles import CHANNELS, WINDOW, make_bundle

from edgekit.agent.ipc import Host, Swap, SwapFailed, Swapped
from edgekit.agent.worker.local_api import ApiUser
from edgekit.agent.worker.shared_model import SharedModel
from edgekit.core.errors import AcceleratorLostError
from edgekit.serve.errors import HttpError
from edgekit.serve.models import READY, UNAVAILABLE, Models
from edgekit.serve.ports import Limits

FEEDS = {"x": np.zeros((1, WINDOW, CHANNELS), np.float32)}
SPARE = {"id": "spare", "backend": "null"}


class Told:
    """What the supervisor was told."""

    def __init__(self):
        self.messages, self._came = [], threading.Condition()

    def __call__(self, message):
        with self._came:
            self.messages.append(message)
            self._came.notify_all()

    def wait_for(self, kind):
        def of_kind():
            return [each for each in self.messages if isinstance(each, kind)]

        with self._came:
            assert self._came.wait_for(of_kind, 60), f"no {kind.__name__} in {self.messages}"
            return of_kind()[-1]


@pytest.fixture
def opened(tmp_path):
    models = []

    def of(**bundle):
        told = Told()
        model = SharedModel(Host(model="motor", path=str(make_bundle(tmp_path / "1", **bundle))), told)
        models.append(model)
        model.open()
        user = ApiUser(model, Limits(), lambda: None)
        assert user.join()
        return model, user, told

    yield of
    for model in models:
        model.close()


def answer(user):
    """Return what a request gets, and the version that it is answered as."""
    entry = user.entry

    def work():
        outputs = entry.run(lambda servable: servable.infer(FEEDS))
        return [round(float(value), 3) for value in next(iter(outputs.values())).ravel()], entry.offer.version

    return entry.lane.result(entry.lane.submit([work], kind="infer"))[0]


def test_after_a_swap_requests_that_waited_and_new_ones_are_answered_as_the_new_version(opened, tmp_path):
    model, user, told = opened(model="motor")
    assert answer(user)[1] == "1.0.0"
    new = make_bundle(tmp_path / "2", model="motor", version="2.0.0")
    model.swap(Swap(model="motor", swap=1, purpose="switch", path=str(new)))
    told.wait_for(Swapped)
    models = Models([user.entry])
    assert (answer(user)[1], models.has("motor", "2.0.0"), models.has("motor", "1.0.0")) == (
        "2.0.0",
        True,
        False,
    )
    with pytest.raises(HttpError, match="no version '1.0.0'"):
        models.find("motor", "1.0.0")


def test_a_swap_that_fails_leaves_the_running_version_answering(opened, tmp_path):
    model, user, told = opened(model="motor")
    model.swap(Swap(model="motor", swap=1, purpose="trial", path=str(tmp_path / "absent")))
    told.wait_for(SwapFailed)
    assert answer(user)[1] == "1.0.0"


def test_a_loss_that_a_request_meets_has_another_variant_answer_the_next(opened):
    _, user, _ = opened(model="motor", options={"lose_at": 12}, more_variants=(SPARE,))
    values = []
    for _ in range(20):
        try:
            values.append(answer(user)[0])
        except AcceleratorLostError:
            values.append("lost")
    assert values.count("lost") == 1
    assert user.entry.servable.variant == "spare"
    assert "null" in user.status()["excluded"]


def test_a_model_that_is_closed_answers_that_it_is_not_ready(opened):
    model, user, _ = opened(model="motor")
    assert user.entry.state == READY
    model.close()
    assert (user.entry.state, user.entry.is_ready) == (UNAVAILABLE, False)
    with pytest.raises(HttpError, match="the agent closes it"):
        user.entry.require()


async def _unload(entry):
    await entry.unload()


def test_a_client_cannot_unload_a_model_of_pipelines(opened):
    _, user, _ = opened(model="motor")
    with pytest.raises(HttpError, match="in use by pipelines") as refused:
        asyncio.run(_unload(user.entry))
    assert refused.value.status == 409
    assert answer(user)[1] == "1.0.0"
