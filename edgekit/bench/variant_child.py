"""The child process that runs one variant for ``VariantProcess``.

A crash of a native library ends only this process, and its memory and load time are the variant's alone.
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
"""Array in an NPZ of ordered samples: a number per sample, which changes where a new recording begins."""
_WARM_UP = 3
_PRE_ROUNDS = 9  # per round of paired_timing


def serve() -> int:
    """Load the variant that the first request names, then answer ``{"do": ACTION, ...}``."""
    parent = Parent()
    requests = parent.requests(dict[str, Any])
    try:
        served = _Served(next(requests))
        parent.result(served.loaded)
        for request in requests:
            parent.result(_ACTIONS[request.pop("do")](served, **request))
    except EdgekitError as error:
        parent.error(error)
        return error.exit_code
    return 0


class _Served:
    def __init__(self, task: dict[str, Any]) -> None:
        self._bundle = open_bundle(task["bundle"])
        self._variant: Variant = next(v for v in self._bundle.manifest.variants if v.id == task["variant"])
        # the first inference is timed below, and golden samples run on request
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
        """Run for some seconds; return the microseconds of each inference."""
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
        """Run every sample of an NPZ; write outputs and items (see ``VariantProcess.evaluate``).

        With ``in_order`` the state passes from sample to sample, and begins with the sample's own where the
        array ``RECORDING`` changes.
        """
        import numpy as np

        predictor = self._ready.predictor
        with np.load(samples, allow_pickle=False) as archive:
            feeds = {name: archive[name] for name in archive.files}
        recordings = feeds.pop(RECORDING, None)
        count = len(next(iter(feeds.values())))
        answers: list[dict[str, Any]] = []
        items = []
        states = self._bundle.manifest.state if in_order else ()
        carried: dict[str, Any] = {}
        for n in range(count):
            if n and recordings is not None and recordings[n] != recordings[n - 1]:
                carried = {}
            sample = {name: array[n : n + 1] for name, array in feeds.items()} | carried
            outputs = predictor.run_golden(sample)
            carried = {state.input: outputs[state.output] for state in states}
            answers.append(outputs)
            if sizes is not None:
                size = (sizes[n][0], sizes[n][1]) if sizes else None
                items.append(predictor.decode(outputs, sample, size).items)
        _require_one_shape(answers)
        # an output without a batch axis (a state) gets one
        join = {name: np.concatenate if len(first) == 1 else np.stack for name, first in answers[0].items()}
        stacked = {name: join[name]([answer[name] for answer in answers]) for name in answers[0]}
        with Path(out).open("wb") as file:
            np.savez(file, allow_pickle=False, **stacked)
        if sizes is not None:
            Path(out + ".items").write_bytes(msgspec.json.encode(items))
        return {"samples": count}

    def pre(self) -> dict[str, Any]:
        """Return the median time to fill the input from an image; 0 if the input is not an image."""
        import numpy as np

        predictor = self._ready.predictor
        shape = predictor.image_input()
        if shape is None:
            return {"pre_ms": 0.0}
        image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
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
        """Run on synthetic input, and write the float outputs to an NPZ."""
        import numpy as np

        with Path(out).open("wb") as file:
            np.savez(file, allow_pickle=False, **run_synthetic(self._ready))
        return {}


_ACTIONS: dict[str, Callable[..., dict[str, Any]]] = {
    "measure": _Served.measure,
    "golden": _Served.golden,
    "evaluate": _Served.evaluate,
    "synthetic": _Served.synthetic,
    "pre": _Served.pre,
}


def _require_one_shape(answers: Sequence[Mapping[str, NDArray[Any]]]) -> None:
    """Reject outputs whose shape depends on the data: they cannot be compared between variants.

    Raises:
        ModelError: An output's shape differs between samples.
    """
    for name, first in answers[0].items():
        other = next((a[name].shape for a in answers if a[name].shape != first.shape), None)
        if other is not None:
            raise ModelError(
                f"output {name!r} has shape {list(first.shape)} for one sample and {list(other)} for another",
                hint="export the model without post-processing (NonMaxSuppression, NonZero):"
                " the bundle's decoder does that",
            )


def rss_mb() -> float:
    """Return this process's resident memory in MB (1e6 bytes)."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    sys.exit(serve())
