"""The lane's thread only runs a batch: its answers are written where they are awaited."""

import threading

import numpy as np
import pytest

from edgekit.base.entry import Entry
from edgekit.base.lane import Lane
from edgekit.core.errors import InferenceError, TensorError
from edgekit.serve.batching import Batching
from edgekit.serve.errors import ClientGoneError
from edgekit.serve.lane import outcome_of


class Work:
    """A request of a number, answered with twice as much."""

    def __init__(self, number, error=None):
        self.number, self.error, self.written_in = number, error, None

    def __call__(self):
        return None

    def feeds(self, servable):
        return {"x": np.full((1, 4), self.number, np.float32)}

    def done(self, servable, outputs, took_s):
        self.written_in = threading.current_thread().name
        if self.error is not None:
            raise self.error
        return outputs["y"].tolist()


class Reusing:
    """Runs batches in the same memory each time."""

    def __init__(self):
        self.memory = np.zeros((8, 4), np.float32)

    def run(self, requests):
        for row, feeds in enumerate(requests):
            self.memory[row] = 2 * feeds["x"]
        return [{"y": self.memory[row : row + 1]} for row in range(len(requests))]


@pytest.fixture
def batching():
    lane = Lane("batches")
    each = Batching(lane, lambda work: work(None))
    each._together = Reusing()
    yield each
    lane.close()


def entry_of(result):
    entry = Entry([], "infer", 0.0)
    entry.results = [result]
    return entry


def run(batching, *works):
    """Run works at once on the lane's thread; return their entries."""
    return [entry_of(result) for result in batching._lane.call(lambda: batching._run_at_once(works))]


def test_an_answer_is_written_where_it_is_awaited_of_outputs_that_the_next_batch_does_not_change(batching):
    works = [Work(1), Work(2)]
    entries = run(batching, *works)
    run(batching, Work(3), Work(4))
    assert [work.written_in for work in works] == [None, None]
    assert [outcome_of(entry) for entry in entries] == [([[2.0] * 4], None), ([[4.0] * 4], None)]
    assert {work.written_in for work in works} == {threading.current_thread().name}


def test_an_answer_that_cannot_be_written_is_its_own_clients_error(batching):
    wrong, bug = TensorError("the model has no output 'z'"), ValueError("a bug")
    entries = run(batching, Work(1, wrong), Work(2), Work(3, bug))
    assert [outcome_of(entry)[1] for entry in entries] == [wrong, None, bug]


def test_an_entry_without_a_result_has_its_error_and_one_that_was_given_up_no_client(batching):
    failed = InferenceError("no")
    lane = batching._lane
    entry = lane.submit([lambda: 1], kind="infer", wake=False)
    lane.fail(entry, failed)
    assert outcome_of(entry) == (None, failed)
    entry = lane.submit([lambda: 1], kind="infer", wake=False)
    lane.cancel(entry)
    assert isinstance(outcome_of(entry)[1], ClientGoneError)
    assert outcome_of(entry_of("as it is")) == ("as it is", None)
