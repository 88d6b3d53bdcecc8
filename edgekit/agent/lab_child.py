"""One variant in a process of its own, for ``edgekit bench`` and ``edgekit verify``.

A native library that crashes takes only this process with it, and memory and load time are the
variant's alone. Talks JSON lines over two file descriptors, since native libraries write to stdout.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.agent.bundle import open_bundle
from edgekit.agent.golden import run_golden
from edgekit.core.errors import EdgekitError

if TYPE_CHECKING:
    from edgekit.core.ports import Backend
    from edgekit.core.spec import Variant

_WARM_UP = 3


def main(arguments: list[str]) -> int:
    """Serve requests until the pipe closes: ``{"do": "time", "seconds"}`` or ``{"do": "golden"}``."""
    task = json.loads(arguments[0])
    with os.fdopen(task["read"], "r") as requests, os.fdopen(task["write"], "w") as answers:

        def answer(document: dict[str, Any]) -> None:
            answers.write(json.dumps(document) + "\n")
            answers.flush()

        try:
            lab = _Lab(task)
            answer(lab.loaded)
            for line in requests:
                request = json.loads(line)
                answer(lab.measure(request["seconds"]) if request["do"] == "time" else lab.golden())
        except EdgekitError as error:
            answer({"error": error.message, "code": error.code, "reasons": list(error.reasons)})
    return 0


class _Lab:
    def __init__(self, task: dict[str, Any]) -> None:
        self._bundle = open_bundle(task["bundle"])
        self._variant: Variant = next(v for v in self._bundle.manifest.variants if v.id == task["variant"])
        started = time.perf_counter()
        from edgekit.backends import open_backend

        self._backend: Backend = open_backend(
            self._bundle.path(self._variant), self._variant, task["options"]
        )
        loaded = time.perf_counter()
        _fill(self._backend)
        self._backend.run()
        first = time.perf_counter()
        self.loaded = {
            "load_ms": (loaded - started) * 1e3,
            "first_ms": (first - loaded) * 1e3,
            "accelerator": self._backend.accelerator,
            "rss_mb": rss_mb(),
        }
        for _ in range(_WARM_UP):
            self._backend.run()

    def measure(self, seconds: float) -> dict[str, Any]:
        """Run for a while; microseconds of each inference."""
        times = []
        end = time.perf_counter_ns() + int(seconds * 1e9)
        now = time.perf_counter_ns()
        while now < end:
            self._backend.run()
            after = time.perf_counter_ns()
            times.append((after - now) / 1e3)
            now = after
        return {"times_us": times, "rss_mb": rss_mb()}

    def golden(self) -> dict[str, Any]:
        """Run the golden samples."""
        from edgekit.pipeline.predictor import Predictor

        predictor = Predictor(self._bundle.manifest, self._variant, self._backend, self._bundle.labels())
        outcomes = run_golden(self._bundle, predictor, self._variant.precision)
        return {
            "golden": [
                {"sample": o.sample, "difference": repr(o.difference), "atol": o.atol, "holds": o.holds}
                for o in outcomes
            ]
        }


def _fill(backend: Backend) -> None:
    """Write seeded noise into the inputs: zeros would let some kernels skip work."""
    import numpy as np

    random = np.random.default_rng(0)
    for spec in backend.inputs:
        view = backend.view(spec.name)
        if view.dtype.kind == "f":
            view[...] = random.uniform(-1, 1, view.shape)
        elif view.dtype.kind in "iu":
            info = np.iinfo(view.dtype)
            view[...] = random.integers(max(info.min, -128), min(info.max, 255), view.shape)
        del view


def rss_mb() -> float:
    """Return this process's resident memory in MB (1e6 bytes)."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
