"""The Python API: ``edgekit.load`` and the model it returns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.core.spec import Manifest, Prediction, Variant
from edgekit.model.ready import Choices, ReadyModel, open_ready

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Model:
    """A model to call from Python."""

    def __init__(self, ready: ReadyModel) -> None:
        self._ready = ready

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of itself."""
        return self._ready.manifest

    @property
    def variant(self) -> Variant:
        """The variant that runs."""
        return self._ready.variant

    @property
    def why(self) -> str:
        """Why this variant, and why not each other one, a line each."""
        return self._ready.why

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
        return self._ready.predictor.predict(data)

    def infer(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the raw model: tensors named, shaped and typed as the variant's file has them.

        Raises:
            TensorError: A feed is missing, unknown, or of another shape or dtype.
        """
        return {name: array.copy() for name, array in self._ready.backend.infer(feeds).items()}

    def close(self) -> None:
        """Free the model; safe to call twice."""
        self._ready.close()

    def __enter__(self) -> Model:  # noqa: PYI034 - typing.Self is newer than Python 3.10
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def load(path: Path | str, *, variant: str | None = None, threads: int | None = None) -> Model:
    """Open the variant of a bundle that fits this machine best, checked on its golden samples.

    Args:
        path: Bundle folder, ``.ekb`` file, or bare model file.
        variant: The only variant to consider.
        threads: CPU threads for the runtime; all cores but one by default.

    Raises:
        BundleError: The bundle is at fault.
        NoVariantError: No variant runs here; ``reasons`` says why, for each.
        GoldenError: No variant that runs here gives the recorded answers.
    """
    return Model(open_ready(path, Choices(variant=variant, threads=threads)))
