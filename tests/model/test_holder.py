"""One model that stays open: LiteRT's variant is lost, ONNX Runtime's takes over, LiteRT's returns."""

import contextlib
import threading
import time

import numpy as np
import pytest
from bundles import make_bundle
from real_pair import planted, write_pair

from edgekit.core.errors import AcceleratorLostError, NoVariantError
from edgekit.model.costs import MeasuredCost, cost_key, save_costs
from edgekit.model.exclusions import Exclusion, Exclusions
from edgekit.model.holder import Holder
from edgekit.model.ready import Choices

LOST = AcceleratorLostError("pulled out")
X = np.zeros((16, 1), np.float32)
WAIT_S = 120.0


class User:
    """Whoever runs the model: notes each switch, and each variant that was tried in vain."""

    def __init__(self, source, exclusions=None, choices=None):
        self.switches, self.in_vain = [], []
        self.changed = threading.Event()
        exclusions = exclusions or Exclusions(retry_s=(0.05, 0.4))
        self.holder = Holder(source, choices or Choices(), exclusions, self.still_lost)

    def switch(self, old, new):
        self.switches.append((old.variant.id, new.variant.id))
        new.predictor.warm()  # it is open
        self.changed.set()

    def still_lost(self, variant, reason):
        self.in_vain.append((variant, reason))
        self.changed.set()

    def lose(self):
        return self.holder.fail_over(self.holder.ready.predictor, LOST)

    def wait(self):
        assert self.changed.wait(WAIT_S)
        self.changed.clear()


@pytest.fixture
def use():
    with contextlib.ExitStack() as stack:

        def make(*arguments, **more):
            user = User(*arguments, **more)
            stack.callback(user.holder.close)
            return user

        yield make


def test_a_lost_variant_is_replaced_at_once_and_returns_after_its_golden_samples_pass(tmp_path, use):
    user = use(write_pair(tmp_path / "b"))
    holder = user.holder
    holder.watch(user.switch)
    lost = holder.ready
    assert user.lose().variant.id == "onnx"
    assert holder.exclusions.reasons() == {"lite": "lost its accelerator: pulled out"}
    assert "lite: lost its accelerator: pulled out" in holder.ready.why
    user.wait()
    assert (user.switches, holder.ready.variant.id) == ([("onnx", "lite")], "lite")
    assert (holder.failovers, holder.returns, holder.failed_returns) == (1, 1, 0)
    assert (holder.exclusions.reasons(), holder.ready is lost) == ({}, False)
    assert holder.ready.predictor.predict(X).items


def test_a_variant_that_gives_wrong_answers_does_not_return_until_they_are_right(tmp_path, use):
    with planted() as faults:
        user = use(write_pair(tmp_path / "b"))
        user.holder.watch(user.switch)
        faults.is_wrong = True
        user.lose()
        user.wait()
        ((variant, reason),) = user.in_vain[:1]
        assert (variant, "does not reproduce 1 of 1 golden samples" in reason) == ("lite", True)
        assert user.holder.exclusions.rows["lite"].wait_s >= 0.1  # doubled
        assert (user.switches, user.holder.ready.variant.id) == ([], "onnx")
        faults.is_wrong = False
        while not user.switches:
            user.wait()
        assert user.holder.failed_returns == len(user.in_vain)


def test_a_variant_that_kills_its_process_is_tried_in_another_and_does_not_return(tmp_path, use):
    spare = {"id": "spare", "backend": "null"}
    bundle = make_bundle(tmp_path / "b", options={"crash_at": 3}, more_variants=(spare,))
    crashed = {"null": Exclusion("killed by SIGSEGV", 0.05, 0.0)}
    user = use(bundle, Exclusions((0.05, 0.4), crashed))
    assert user.holder.ready.variant.id == "spare"
    user.holder.watch(user.switch)
    user.wait()
    assert "killed by SIGSEGV" in user.in_vain[0][1]
    assert not user.switches


def test_the_best_variant_runs_in_the_end_and_a_worse_one_never_takes_its_place(tmp_path, use):
    others = tuple({"id": name, "backend": "null"} for name in ("second", "third"))
    user = use(make_bundle(tmp_path / "b", more_variants=others))
    holder = user.holder
    user.lose()
    user.lose()
    assert (holder.ready.variant.id, set(holder.exclusions.reasons())) == ("third", {"null", "second"})
    holder.exclusions.rows["second"] = Exclusion("lost", 0.05, time.monotonic() + 3600)
    holder.watch(user.switch)
    user.wait()
    assert user.switches == [("third", "null")]
    holder.rest()
    holder.exclusions.rows["second"] = Exclusion("lost", 0.05, 0.0)
    holder.watch(user.switch)
    deadline_s = time.monotonic() + WAIT_S
    while holder.exclusions.rows["second"].wait_s < 0.4:  # looked at three times
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    assert (holder.ready.variant.id, len(user.switches), user.in_vain) == ("null", 1, [])


def test_what_is_lost_while_a_better_variant_takes_over_is_followed_by_the_better_one(tmp_path, use):
    user = use(write_pair(tmp_path / "b"))
    followed = []

    def switch(old, new):
        followed.append((old.variant.id, user.holder.fail_over(old.predictor, LOST) is new.predictor))
        user.switch(old, new)

    user.holder.watch(switch)
    user.lose()
    user.wait()
    assert followed == [("onnx", True)]
    assert (user.holder.ready.variant.id, set(user.holder.exclusions.reasons())) == ("lite", {"onnx"})


def test_where_no_other_variant_is_left_the_lost_one_returns_all_the_same(tmp_path, use):
    user = use(write_pair(tmp_path / "b"), choices=Choices(variant="lite"))
    user.holder.watch(user.switch)
    with pytest.raises(NoVariantError) as caught:
        user.lose()
    assert "lite: lost its accelerator: pulled out" in caught.value.reasons
    user.wait()
    assert user.switches == [("lite", "lite")]


def test_a_holder_at_rest_tries_nothing_and_a_closed_one_leaves_no_thread(tmp_path, use):
    user = use(write_pair(tmp_path / "b"))
    user.holder.watch(user.switch)
    user.holder.rest()
    user.lose()
    assert user.holder._thread is None
    user.holder.watch(user.switch)
    thread = user.holder._thread
    user.holder.close()
    user.holder.close()
    thread.join(WAIT_S)
    assert (thread.is_alive(), user.switches) == (False, [])


def test_a_faster_variant_runs_on_request_and_the_chosen_one_after(tmp_path, use):
    """The pipeline names the slower one; which one is faster was measured here."""
    user = use(write_pair(tmp_path / "b"), choices=Choices(variant="onnx", threads=1))
    holder = user.holder
    with pytest.raises(NoVariantError, match="0 variants are known to be faster here than 'onnx'"):
        holder.change_to(1, user.switch)
    costs = {"onnx": 4.0, "lite": 2.0}
    save_costs(
        {cost_key(v, 1): MeasuredCost(costs[v.id], 0, 0, 0, 0) for v in holder.bundle.manifest.variants}
    )
    holder.change_to(1, user.switch)
    assert holder.ready.variant.id == "lite"
    assert holder.ready.why.startswith("lite: keeps the pipeline's budget")
    holder.change_to(0, user.switch)
    assert user.switches == [("onnx", "lite"), ("lite", "onnx")]
    assert holder.ready.predictor.predict(X).items
