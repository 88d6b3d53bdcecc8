"""The tiny model in plain Python: proves the seam to a foreign interpreter without a vendor's library.

``tenant_options`` script faults, counted in runs from 1: ``crash_at``, ``hang_at``, ``fail_at``,
``lose_at``, ``garbage_at``. It reads no model file, but refuses one that is not there.
"""

import os
import signal
import struct
import sys
import time
from pathlib import Path

_ROWS = 16
_COLUMNS = 4
_BIASES = (1.0, -2.0, 3.0, 0.0)


def load(request: "dict[str, Any]", fail: "Any") -> "Echo":
    """Return the model."""
    if not Path(request["model"]).exists():
        raise fail("load", "there is no file " + request["model"])
    return Echo(request["accelerator"], request["tenant_options"], fail)


class Echo:
    """y = relu(x @ w + b), one multiplication after the other."""

    def __init__(self, accelerator: str, options: "dict[str, int]", fail: "Any") -> None:
        self.inputs = [{"name": "x", "datatype": "FP32", "shape": [1, _ROWS]}]
        self.outputs = [{"name": "y", "datatype": "FP32", "shape": [1, _COLUMNS]}]
        self.accelerator = accelerator
        self.version = "echo on Python " + sys.version.split()[0]
        self._options = options
        self._fail = fail
        self._runs = 0
        self._views = ()  # type: Any

    def bind(self, inputs: "dict[str, memoryview]", outputs: "dict[str, memoryview]") -> None:
        """Take the memory of the tensors."""
        self._views = (inputs["x"], outputs["y"])

    def run(self) -> None:
        """Compute, or do the fault that is due."""
        self._runs += 1
        self._misbehave()
        source, target = self._views
        x = struct.unpack_from(f"<{_ROWS}f", source)
        y = [
            max(
                0.0,
                sum(x[row] * float((row * 5 + column * 3) % 7 - 3) for row in range(_ROWS)) + _BIASES[column],
            )
            for column in range(_COLUMNS)
        ]
        struct.pack_into(f"<{_COLUMNS}f", target, 0, *y)

    def reset(self) -> None:
        """Do nothing: there is no state."""

    def close(self) -> None:
        """Do nothing: there is nothing to free."""

    def _misbehave(self) -> None:
        if self._runs == self._options.get("crash_at"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self._runs == self._options.get("garbage_at"):
            for fd in range(3, 32):
                if Path(f"/proc/self/fd/{fd}").is_fifo():  # the pipe of the answers
                    os.write(fd, b"\xff\xff\xff\xffgarbage\n")
        if self._runs == self._options.get("fail_at"):
            raise self._fail("inference", "this run is scripted to fail")
        if self._runs == self._options.get("lose_at"):
            raise self._fail("accelerator_lost", "this run is scripted to lose the accelerator")
        while self._runs == self._options.get("hang_at"):
            time.sleep(1.0)


TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any
