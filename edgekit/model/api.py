"""The Python API: ``edgekit.load`` and the model it returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.core.spec import Manifest, Prediction, TensorSpec, Variant
from edgekit.model.ready import Choices, ReadyModel, open_ready

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Model:
    """A model to call from Python."""

    def __init__(self, ready: ReadyModel) -> None:
        self._ready = ready

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        return self._ready.manifest

    @property
    def variant(self) -> Variant:
        """The variant that runs."""
        return self._ready.variant

    @property
    def why(self) -> str:
        """Why this variant was chosen, and why each other was not, one line each."""
        return self._ready.why

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs of the variant's file; a quantised one has its scale and zero point."""
        return self._ready.backend.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs of the variant's file, likewise."""
        return self._ready.backend.outputs

    def predict(self, data: NDArray[Any]) -> Prediction:
        """Return what the model detects in an image or sensor window; safe from any thread.

        Args:
            data: An image, shape (height, width, 3), uint8, BGR as OpenCV reads it; or a sensor
                window, shape (samples, channels), real numbers in the sensor's units.

        Returns:
            The task-level result, best item first; boxes in pixels of ``data``.

        Raises:
            TensorError: ``data`` has the wrong shape or dtype.
            InferenceError: The runtime failed on this input.
        """
        return self._ready.predictor.predict(data)

    def predict_many(self, samples: Sequence[NDArray[Any]]) -> list[Prediction]:
        """Return what ``predict`` returns for each sample, run in batches of ``load(batch=...)``.

        Args:
            samples: Each as ``predict`` takes it; windows in the order of time.

        Raises:
            TensorError: One has the wrong shape or dtype; the error names its number.
            InferenceError: The runtime failed.
        """
        return self._ready.predictor.predict_many(samples)

    def infer(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the model on tensors, without the decoder; the same call whichever variant runs.

        Args:
            feeds: The manifest's inputs by name: an image (1, height, width, channels), uint8, resized
                and not normalised; a window in the sensor's units; else tensors of the manifest's types.
                A quantised file takes real numbers. State that is not given is zeros.

        Returns:
            The manifest's outputs by name, of its types; copies.

        Raises:
            TensorError: A feed is missing, unknown, or of another shape or dtype.
            InferenceError: The runtime failed on this input.
        """
        return self._ready.predictor.run_tensors(feeds)

    def close(self) -> None:
        """Free the model; safe to call twice."""
        self._ready.close()

    def __enter__(self) -> Model:  # noqa: PYI034 - typing.Self is newer than Python 3.10
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def load(
    path: Path | str, *, variant: str | None = None, threads: int | None = None, batch: int | None = None
) -> Model:
    """Open the variant of a bundle that fits this machine best, checked on its golden samples.

    Args:
        path: Bundle folder, ``.ekb`` file, or bare model file.
        variant: The only variant to consider.
        threads: CPU threads for the runtime; all cores but one by default.
        batch: How many samples ``predict_many`` runs at once; variants not built for that many are passed
            over. By default the variant's own, mostly 1.

    Raises:
        BundleError: The bundle is at fault.
        NoVariantError: No variant runs here; ``reasons`` says why, for each.
        GoldenError: No variant that runs here gives the recorded answers.
    """
    return Model(open_ready(path, Choices(variant=variant, threads=threads, batch=batch)))
