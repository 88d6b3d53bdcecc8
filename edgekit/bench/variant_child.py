"""One variant in a process of its own, for ``edgekit bench``, ``verify`` and ``optimize``.

A native library that crashes takes only this process with it, and memory and load time are the
variant's alone.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgekit.base.child import Parent
from edgekit.core.errors import EdgekitError, ModelError
from edgekit.model.bundle import open_bundle
from edgekit.model.golden import run_golden
from edgekit.model.ready import Choices, open_variant
from edgekit.model.synthetic import fill_noise, run_synthetic

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.core.spec import Variant

RECORDING = "@recording"
"""In a file of samples in order: a number for each, another one where another recording begins."""
_WARM_UP = 3
_PRE_ROUNDS = 9  # a round of many: see rounds.py


def serve() -> int:
    """Load the variant that the first request names; then serve ``{"do": NAME, ...}``, see ``_ACTIONS``."""
    parent = Parent()
    requests = parent.requests(dict[str, Any])
    try:
        lab = _Lab(next(requests))
        parent.result(lab.loaded)
        for request in requests:
            parent.result(_ACTIONS[request["do"]](lab, request))
    except EdgekitError as error:
        parent.error(error)
        return error.exit_code
    return 0


class _Lab:
    def __init__(self, task: dict[str, Any]) -> None:
        self._bundle = open_bundle(task["bundle"])
        self._variant: Variant = next(v for v in self._bundle.manifest.variants if v.id == task["variant"])
        # neither: the first inference is timed here, and golden samples are run when they are asked for
        choices = Choices(golden=False, warm=False)
        self._ready = open_variant(self._bundle, self._variant, task["options"], choices)
        self._backend = self._ready.backend
        loaded = time.perf_counter()
        fill_noise(self._backend)
        self._backend.run()
        first = time.perf_counter()
        self.loaded = {
            "load_ms": self._ready.load_ms,
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

    def evaluate(
        self, samples: str, out: str, sizes: list[list[int]] | None, *, in_order: bool
    ) -> dict[str, Any]:
        """Run every sample of an NPZ of logical inputs, (n, ...); write the outputs, and the items.

        ``out`` gets an NPZ of logical outputs (n, ...); ``out`` + ".items" the decoded items where
        ``sizes``, the source pictures' widths and heights, is not None (empty: the input's own).
        ``in_order``: the state goes from each sample to the next, and is the sample's own where the
        array ``RECORDING`` changes.
        """
        import numpy as np

        predictor = self._ready.predictor
        with np.load(samples, allow_pickle=False) as archive:
            feeds = {name: archive[name] for name in archive.files}
        recordings = feeds.pop(RECORDING, None)
        count = len(next(iter(feeds.values())))
        found: list[dict[str, Any]] = []
        items = []
        states = self._bundle.manifest.state if in_order else ()
        carried: dict[str, Any] = {}
        for n in range(count):
            if n and recordings is not None and recordings[n] != recordings[n - 1]:
                carried = {}
            sample = {name: array[n : n + 1] for name, array in feeds.items()} | carried
            outputs = predictor.run_golden(sample)
            carried = {state.input: outputs[state.output] for state in states}
            found.append(outputs)
            if sizes is not None:
                size = (sizes[n][0], sizes[n][1]) if sizes else None
                items.append(predictor.decode(outputs, sample, size).items)
        _require_one_shape(found)
        # an output without a batch axis (a state) gets one
        join = {name: np.concatenate if len(first) == 1 else np.stack for name, first in found[0].items()}
        stacked = {name: join[name]([one[name] for one in found]) for name in found[0]}
        with Path(out).open("wb") as file:
            np.savez(file, allow_pickle=False, **stacked)
        if sizes is not None:
            Path(out + ".items").write_bytes(msgspec.json.encode(items))
        return {"samples": count}

    def pre(self) -> dict[str, Any]:
        """Measure how long it takes to fill the input from an image's bytes; 0 where it is no image."""
        import numpy as np

        predictor = self._ready.predictor
        data = predictor.image_input()
        if data is None:
            return {"pre_ms": 0.0}
        image = np.random.default_rng(0).integers(0, 256, data, np.uint8)
        times = []
        for _ in range(_PRE_ROUNDS):
            before = time.perf_counter_ns()
            predictor.fill_image(image)
            times.append(time.perf_counter_ns() - before)
        return {"pre_ms": sorted(times)[len(times) // 2] / 1e6}

    def golden(self) -> dict[str, Any]:
        """Run the golden samples."""
        outcomes = run_golden(self._bundle, self._ready.predictor, self._variant.precision)
        return {"golden": [(o.sample, repr(o.difference), o.atol) for o in outcomes]}

    def synthetic(self, out: str) -> dict[str, Any]:
        """Run on made-up input, and write the outputs as reals into an NPZ."""
        import numpy as np

        with Path(out).open("wb") as file:
            np.savez(file, allow_pickle=False, **run_synthetic(self._ready))
        return {}


_ACTIONS: dict[str, Callable[[_Lab, dict[str, Any]], dict[str, Any]]] = {
    "time": lambda lab, request: lab.measure(request["seconds"]),
    "golden": lambda lab, _request: lab.golden(),
    "evaluate": lambda lab, request: lab.evaluate(
        request["samples"], request["out"], request["sizes"], in_order=request.get("in_order", False)
    ),
    "synthetic": lambda lab, request: lab.synthetic(request["out"]),
    "pre": lambda lab, _request: lab.pre(),
}


def _require_one_shape(found: Sequence[Mapping[str, NDArray[Any]]]) -> None:
    """Refuse outputs whose size depends on the data: they can be compared with nobody's.

    Raises:
        ModelError: An output has another shape for one sample than for another.
    """
    for name, first in found[0].items():
        other = next((one[name].shape for one in found if one[name].shape != first.shape), None)
        if other is not None:
            raise ModelError(
                f"output {name!r} has shape {list(first.shape)} for one sample and {list(other)} for another",
                hint="export the model without what sorts its answers out (NonMaxSuppression, NonZero):"
                " the bundle's decoder does that, and compares like with like",
            )


def rss_mb() -> float:
    """Return this process's resident memory in MB (1e6 bytes)."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    sys.exit(serve())
