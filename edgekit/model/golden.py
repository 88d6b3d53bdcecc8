"""Golden samples: recorded inputs whose outputs a variant must reproduce before it is used."""

from __future__ import annotations

from collections.abc import Sequence
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


def run_golden(bundle: Bundle, predictor: Predictor, precision: str) -> list[GoldenOutcome]:
    """Run every golden sample of a bundle.

    Raises:
        BundleError: A sample cannot be read, or names tensors the model does not have.
        TensorError: An output has another shape than the recorded one.
        InferenceError: The model failed on one.
    """
    return [_run_one(bundle, golden, predictor, precision) for golden in bundle.manifest.golden]


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


def _run_one(bundle: Bundle, golden: Golden, predictor: Predictor, precision: str) -> GoldenOutcome:
    import numpy as np

    feeds, recorded = _arrays(bundle, golden.inputs), _arrays(bundle, golden.outputs)
    outputs = predictor.run_golden(feeds)
    worst = 0.0
    for name, expected in recorded.items():
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
