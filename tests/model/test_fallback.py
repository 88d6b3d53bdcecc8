"""``[fallback]`` of a pipeline: the order, the variant that stands by, and the running one checked again."""

import contextlib
import json
import threading
import time

import numpy as np
import pytest
from bundles import make_bundle
from real_pair import planted, write_pair

from edgekit.base.paths import cache_dir
from edgekit.core.errors import AcceleratorLostError, ConfigError, GoldenError
from edgekit.model.holder import Holder
from edgekit.model.ready import Choices
from edgekit.pipeline.config import FallbackTable, parse_config

LOST = AcceleratorLostError("pulled out")
X = np.zeros((16, 1), np.float32)
WAIT_S = 120.0


@pytest.fixture
def hold(tmp_path):
    """Return a function that opens the real pair; LiteRT's variant ranks first."""
    with contextlib.ExitStack() as stack:

        def make(switched=None, *, pairs=(), **table):
            fallback = FallbackTable(**{"recheck_s": 0.0, "retry_s": (0.05, 600.0), **table})
            holder = Holder(write_pair(tmp_path / "b"), Choices(pairs=pairs), fallback=fallback)
            stack.callback(holder.close)
            holder.watch(lambda _old, new: switched and switched(new))
            return holder

        yield make


def until(claim):
    deadline_s = time.monotonic() + WAIT_S
    while not claim():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def pipeline(table):
    text = '[pipeline]\nname = "p"\nmodel = "m"\n[source]\nkind = "synthetic"\n[fallback]\n'
    return parse_config(text + table).fallback


def test_the_table_has_the_documented_defaults_and_reports_every_mistake():
    assert pipeline("") == FallbackTable(pairs=(), standby="none", recheck_s=300.0, retry_s=(5.0, 600.0))
    assert pipeline('pairs = ["edgetpu", "cpu"]\nretry_s = [1, 2]').retry_s == (1.0, 2.0)
    with pytest.raises(ConfigError) as caught:
        pipeline('pairs = ["cpu", "cpu"]\nretry_s = [5, 1]')
    assert [reason.split(": want ")[0].split(".")[-1] for reason in caught.value.reasons] == [
        "pairs", "retry_s",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("pairs", "runs", "left"),
    [(("onnx", "lite"), "onnx", 1), (("onnx", "cpu"), "onnx", 1), (("onnx",), "onnx", 0)],
)
def test_pairs_replace_the_ranking_and_what_they_do_not_name_does_not_run(hold, pairs, runs, left):
    ready = hold(pairs=pairs).ready
    assert (ready.variant.id, len(ready.selection.candidates) - 1) == (runs, left)
    assert ("lite: [fallback] pairs does not name it" in ready.why) == (left == 0)


def test_a_pair_that_the_bundle_lacks_is_a_configuration_error_that_lists_what_there_is(hold):
    with pytest.raises(ConfigError, match="has no 'edgetpu'") as caught:
        hold(pairs=("edgetpu", "cpu"))
    assert (caught.value.hint, caught.value.exit_code) == ("any of: onnx, lite, cpu", 3)


def test_a_standby_takes_over_without_opening_anything_and_stands_by_again_after_the_return(hold):
    back = threading.Event()
    holder = hold(lambda _new: back.set(), standby="warm")
    until(lambda: holder._standby is not None)
    standby, lost = holder._standby, holder.ready
    assert (standby.variant.id, lost.fallback) == ("onnx", (0, 2))
    assert holder.fail_over(lost.predictor, LOST) is standby.predictor
    assert "lite: lost its accelerator: pulled out" in standby.why
    assert standby.fallback == (1, 2)
    assert back.wait(WAIT_S)
    until(lambda: holder._standby is standby)
    assert (holder.ready.variant.id, holder.returns) == ("lite", 1)
    assert standby.predictor.predict(X).items


def test_once_the_standby_runs_the_next_one_stands_by(tmp_path):
    others = tuple({"id": name, "backend": "null"} for name in ("second", "third"))
    tried = []
    holder = Holder(
        make_bundle(tmp_path / "b", more_variants=others),
        Choices(on_try=lambda variant, left: tried.append((variant, left))),
        fallback=FallbackTable(standby="warm", recheck_s=0.0, retry_s=(600.0, 600.0)),
    )
    with contextlib.closing(holder):
        holder.watch(lambda _old, _new: None)
        until(lambda: holder._standby is not None)
        assert holder.fail_over(holder.ready.predictor, LOST).variant.id == "second"
        until(lambda: holder._standby is not None)
        assert holder._standby.variant.id == "third"
        until(lambda: tried[-1] == ("second", 1))  # what a crash is blamed on from now on


def test_a_wrong_answer_is_found_between_frames_and_no_later_frame_is_answered_by_it(hold):
    holder = hold(recheck_s=0.05)
    running = holder.ready.predictor
    until(lambda: not holder.recheck(running, 0) and holder.rechecks["done"])
    with planted() as faults:
        faults.is_wrong = True

        def finds():
            try:
                holder.recheck(running, 0)
            except GoldenError as wrong:
                return holder.fail_over(running, wrong)
            return None

        found = []
        until(lambda: found.append(finds()) or found[-1])
        assert found[-1].variant.id == "onnx"
        (reason,) = holder.exclusions.reasons().values()
        assert reason.startswith(
            "gave wrong answers: 'relu 1.0.0' does not reproduce 1 of 1 golden samples; 0.npz: off"
        )
        holder.rest()


def test_where_frames_always_wait_the_check_is_made_late_and_counted(hold):
    began_s = time.monotonic()
    holder = hold(recheck_s=0.1)
    running = holder.ready.predictor
    until(lambda: holder.recheck(running, 1) or holder.rechecks["forced"])
    assert time.monotonic() - began_s >= 0.39  # the clock of the wait rounds
    assert holder.rechecks == {"done": 1, "forced": 1}


def test_another_fingerprint_than_that_of_the_last_check_has_it_made_again_at_once(hold, monkeypatch):
    monkeypatch.setattr("edgekit.model.holder.FINGERPRINT_S", 0.05)
    holder = hold(recheck_s=3600.0)
    path = cache_dir() / "checked.json"
    until(path.exists)
    (kept,) = json.loads(path.read_text()).values()
    assert kept["runtime"].startswith("litert ")
    path.write_text(json.dumps({kept["model"]: {**kept, "drivers": {"kernel": "another"}}}))
    until(lambda: holder.recheck(holder.ready.predictor, 1) or holder.rechecks["done"])
    until(lambda: json.loads(path.read_text())[kept["model"]] == kept)


def test_a_check_changes_nothing_of_the_stream(hold):
    holder = hold()
    predictor = holder.ready.predictor
    before = predictor.predict(X + 1)
    feeds = {"x": np.ones((1, 16), np.float32)}
    golden = predictor.run_golden(feeds)
    for name, array in predictor.run_between(feeds).items():
        np.testing.assert_array_equal(array, golden[name])
    assert predictor.predict(X + 1) == before
