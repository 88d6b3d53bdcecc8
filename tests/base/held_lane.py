"""A lane that a test holds, and a clock that it moves."""

import threading

from edgekit.base.lane import Lane

WAIT_S = 60


class Clock:
    """Monotonic seconds that only the test moves."""

    def __init__(self):
        self.now_s = 1.0

    def __call__(self):
        return self.now_s


class Held:
    """A lane whose thread waits until ``open``, so that a test can say what waits for it."""

    def __init__(self, bounds=None, clock=None):
        self.clock = clock or Clock()
        self.lane, self.ran, self._gate = Lane("held", bounds, clock=self.clock), [], threading.Event()
        began = threading.Event()
        self.lane.control(lambda: (began.set(), self._gate.wait(WAIT_S)))
        assert began.wait(WAIT_S)

    def submit(self, name="", **more):
        return self.lane.submit([lambda: self.ran.append(name)], kind="infer", **more)

    def open(self):
        self._gate.set()
        self.lane.control(lambda: None, after_waiting=True).done.wait(WAIT_S)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._gate.set()
        self.lane.close()
