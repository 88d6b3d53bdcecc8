"""Golden samples: recorded inputs whose outputs a variant must reproduce before it is used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from edgekit.core.errors import BundleError, GoldenError, TensorError
from edgekit.core.spec import Golden, Manifest
from edgekit.model.bundle import Bundle

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.pipeline.predictor import Predictor


class GoldenOutcome(msgspec.Struct, frozen=True):
    """The result of one golden sample; ``difference`` is the largest of any output."""

    sample: str
    difference: float
    atol: float

    @property
    def holds(self) -> bool:
        """Whether the recorded answer was reproduced; False for NaN."""
        return self.difference <= self.atol


@dataclass(frozen=True)
class GoldenSample:
    """One golden sample in memory: the arrays to feed, and the recorded outputs, by name."""

    golden: Golden
    feeds: Mapping[str, NDArray[Any]]
    recorded: Mapping[str, NDArray[Any]]


def read_golden(bundle: Bundle, golden: Golden) -> GoldenSample:
    """Read a golden sample's files.

    Raises:
        BundleError: One cannot be read.
    """
    return GoldenSample(golden, _arrays(bundle, golden.inputs), _arrays(bundle, golden.outputs))


def run_golden(bundle: Bundle, predictor: Predictor, precision: str) -> list[GoldenOutcome]:
    """Run every golden sample of a bundle.

    Raises:
        BundleError: A sample cannot be read, or names tensors the model does not have.
        TensorError: An output has another shape than the recorded one.
        InferenceError: The model failed on one.
    """
    samples = (read_golden(bundle, golden) for golden in bundle.manifest.golden)
    return [run_sample(sample, predictor.run_golden, precision) for sample in samples]


def require_golden(manifest: Manifest, outcomes: Sequence[GoldenOutcome]) -> None:
    """Raise unless every golden sample was reproduced.

    Raises:
        GoldenError: At least one was not; each is named with its difference.
    """
    failed = [outcome for outcome in outcomes if not outcome.holds]
    if not failed:
        return
    raise GoldenError(
        f"'{manifest.model} {manifest.version}' does not reproduce {len(failed)} of {len(outcomes)}"
        " golden samples",
        reasons=tuple(f"{o.sample}: off by {o.difference:.4g}, at most {o.atol:.4g}" for o in failed),
        hint="do not use this bundle; record golden samples again only if the model is known to be right",
    )


def run_sample(
    sample: GoldenSample,
    run: Callable[[Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]],
    precision: str,
) -> GoldenOutcome:
    """Run one golden sample by a predictor's ``run``; raises as ``run_golden`` does."""
    import numpy as np

    golden, worst, outputs = sample.golden, 0.0, run(sample.feeds)
    for name, expected in sample.recorded.items():
        if name not in outputs:
            raise BundleError(f"{golden.outputs} has output {name!r}, the model has {sorted(outputs)}")
        output = outputs[name]
        if output.shape != expected.shape:
            raise TensorError(
                f"{golden.outputs}: {name!r} is {expected.shape}, the model gives {output.shape}"
            )
        difference = float(np.max(np.abs(output.astype(np.float64) - expected), initial=0.0))
        worst = difference if not difference <= worst else worst  # so that a NaN stays
    return GoldenOutcome(golden.inputs, worst, golden.tolerance(precision))


def _arrays(bundle: Bundle, path: str) -> dict[str, NDArray[Any]]:
    import numpy as np

    try:
        with np.load(bundle.root / path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, KeyError) as cause:
        raise BundleError(f"{bundle.source}: golden sample {path} cannot be read: {cause}") from cause
