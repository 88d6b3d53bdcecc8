"""Opens a model: the bundle, the variant that fits this machine, its backend; and the Python API."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.backends import open_backend
from edgekit.core.errors import BackendError, NoVariantError
from edgekit.core.ports import Backend
from edgekit.core.select import Selection, require, select
from edgekit.core.spec import Facts, Manifest, Prediction, Profile, Variant
from edgekit.model.bundle import Bundle, open_bundle
from edgekit.model.costs import measured_here
from edgekit.model.doctor import facts_with_proofs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.pipeline.predictor import Predictor

logger = logging.getLogger(__name__)


def default_threads(facts: Facts) -> int:
    """Return how many threads a model gets: all cores but one, which capture and the link share."""
    return max(1, facts.cores - 1)


class OpenModel:
    """A model that is loaded: which variant, in which backend, and why that one.

    ``selection`` has the reason for every rejection; ``fallbacks`` has, for each variant that was
    chosen first and could not be opened, its error.
    """

    def __init__(
        self,
        bundle: Bundle,
        variant: Variant,
        backend: Backend,
        selection: Selection,
        fallbacks: dict[str, str],
    ) -> None:
        self.bundle = bundle
        self.variant = variant
        self.backend = backend
        self.selection = selection
        self.fallbacks = fallbacks
        self.labels = bundle.labels()

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        return self.bundle.manifest

    @property
    def why(self) -> str:
        """Why this variant, and why not each other one, a line each."""
        lines = [f"{self.variant.id}: {self.selection.why}"]
        lines += [f"{r.variant}: {'; '.join(r.reasons)}" for r in self.selection.rejected]
        return "\n".join(lines)

    def close(self) -> None:
        """Free the backend; safe to call twice."""
        self.backend.close()


def choose(
    bundle: Bundle,
    *,
    variant: str | None = None,
    threads: int | None = None,
    exclude: Mapping[str, str] | None = None,
) -> tuple[Selection, Facts, Profile]:
    """Select a variant of a bundle for this machine, by measurement where it was measured.

    Raises:
        NoVariantError: ``variant`` names none of the bundle's.
    """
    facts, chosen = facts_with_proofs(Path("/"))
    profile = chosen.profile
    excluded = dict(exclude or {})
    if variant is not None:
        known = [v.id for v in bundle.manifest.variants]
        if variant not in known:
            raise NoVariantError(
                f"{bundle.source} has no variant {variant!r}", hint=f"one of: {', '.join(known)}"
            )
        excluded |= {other: f"variant '{variant}' was asked for" for other in known if other != variant}
    measured = measured_here(bundle.manifest, threads or default_threads(facts))
    selection = select(bundle.manifest, facts, profile, measured, exclude=excluded, named=variant)
    return selection, facts, profile


def open_model(
    path: Path | str,
    *,
    variant: str | None = None,
    threads: int | None = None,
    exclude: Mapping[str, str] | None = None,
) -> OpenModel:
    """Open the variant of a bundle that fits this machine best.

    A variant that was chosen and then cannot be opened is excluded with its error, logged, and the
    selection made again: the fallback stands in ``fallbacks`` and in ``why``.

    Args:
        path: Bundle folder, ``.ekb`` file, or bare model file.
        variant: The only variant to consider.
        threads: CPU threads for the runtime; all cores but one by default.
        exclude: Variants not to choose, with the reason (an accelerator just lost).

    Raises:
        BundleError: The bundle is at fault.
        NoVariantError: No variant runs here; ``reasons`` says why, for each.
    """
    bundle = open_bundle(path)
    fallbacks: dict[str, str] = {}
    while True:
        selection, facts, profile = choose(
            bundle, variant=variant, threads=threads, exclude={**(exclude or {}), **fallbacks}
        )
        chosen = require(selection, bundle.manifest, os.uname().nodename)
        options = {"threads": default_threads(facts)} | backend_options(chosen, profile)
        if threads:
            options["threads"] = threads
        try:
            backend = open_backend(bundle.path(chosen), chosen, options)
        except BackendError as cause:
            logger.warning("variant %s cannot be opened, choosing again: %s", chosen.id, cause)
            fallbacks[chosen.id] = f"could not be opened: {cause}"
            continue
        return OpenModel(bundle, chosen, backend, selection, fallbacks)


def backend_options(variant: Variant, profile: Profile) -> dict[str, Any]:
    """Return the options the profile opens a variant's backend with."""
    for row in profile.backend:
        if (row.name, row.accelerator) == (variant.backend, variant.accelerator):
            return dict(row.options)
    return {}


class Model:
    """A model to call from Python."""

    def __init__(self, opened: OpenModel, predictor: Predictor) -> None:
        self._opened = opened
        self._predictor = predictor

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of itself."""
        return self._opened.manifest

    @property
    def variant(self) -> Variant:
        """The variant that runs."""
        return self._opened.variant

    @property
    def why(self) -> str:
        """Why this variant, and why not each other one, a line each."""
        return self._opened.why

    def predict(self, data: NDArray[Any]) -> Prediction:
        """Say what the model sees.

        Args:
            data: An image, shape (height, width, 3), uint8, BGR as OpenCV reads it; or a sensor
                window, shape (samples, channels), real numbers in the sensor's units.

        Returns:
            The task-level result, best item first; boxes in pixels of ``data``.

        Raises:
            TensorError: ``data`` has another shape or dtype.
            InferenceError: The runtime failed on this input.
        """
        return self._predictor.predict(data)

    def infer(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the raw model: tensors named, shaped and typed as the variant's file has them.

        Raises:
            TensorError: A feed is missing, unknown, or of another shape or dtype.
        """
        return {name: array.copy() for name, array in self._opened.backend.infer(feeds).items()}

    def close(self) -> None:
        """Free the model; safe to call twice."""
        self._opened.close()

    def __enter__(self) -> Model:  # noqa: PYI034 - typing.Self is newer than Python 3.10
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def load(path: Path | str, *, variant: str | None = None, threads: int | None = None) -> Model:
    """Open the variant of a bundle that fits this machine best.

    Args:
        path: Bundle folder, ``.ekb`` file, or bare model file.
        variant: The only variant to consider.
        threads: CPU threads for the runtime; all cores but one by default.

    Raises:
        BundleError: The bundle is at fault.
        NoVariantError: No variant runs here; ``reasons`` says why, for each.
    """
    from edgekit.pipeline.predictor import Predictor

    opened = open_model(path, variant=variant, threads=threads)
    return Model(opened, Predictor(opened.manifest, opened.variant, opened.backend, opened.labels))
