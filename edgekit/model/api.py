"""The Python API: ``edgekit.load`` and the model it returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import numpy as np

from edgekit.core.errors import TensorError
from edgekit.core.ports import FrameData
from edgekit.core.spec import Manifest, Prediction, TensorSpec, Variant
from edgekit.model.ready import Choices, ReadyModel, open_ready
from edgekit.pipeline.gallery import Gallery
from edgekit.pipeline.picture_files import decode_picture, read_picture
from edgekit.pipeline.sinks.video import draw

if TYPE_CHECKING:
    from numpy.typing import NDArray


Sample: TypeAlias = "NDArray[Any] | Path | str | bytes | Mapping[str, Any]"
"""An image or window, a picture's path or bytes, or a row of a table by column name."""


def _is_rows(data: object) -> bool:
    return isinstance(data, list) and bool(data) and isinstance(data[0], list | tuple | Mapping | np.ndarray)


class Seen(Prediction, frozen=True, kw_only=True, omit_defaults=True):
    """A prediction that draws itself."""

    def draw(self, image: Sample) -> NDArray[np.uint8]:
        """Return a copy of the image, (height, width, 3), uint8, BGR, with every item drawn in.

        Raises:
            TensorError: ``image`` is no picture.
        """
        pixels = sample_of(image)
        if isinstance(pixels, Mapping):
            raise TensorError("a row of a table cannot be drawn into")
        return draw(pixels, self)


def seen(prediction: Prediction) -> Seen:
    """Return a prediction as one that draws itself."""
    return Seen(task=prediction.task, items=prediction.items, tensors=prediction.tensors)


def sample_of(data: Sample) -> NDArray[Any] | Mapping[str, Any]:
    """Return an array or a row as it is, and a picture's path or bytes decoded, BGR.

    Raises:
        TensorError: There is no such file, or it is no picture.
    """
    if not isinstance(data, str | Path | bytes):
        return data
    if isinstance(data, bytes):
        return decode_picture(data, f"{len(data)} bytes")
    return read_picture(Path(data))


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

    @overload
    def predict(self, data: list[Sample]) -> list[Seen]: ...

    @overload
    def predict(self, data: Sample | list[float]) -> Seen: ...

    def predict(self, data: Any) -> Seen | list[Seen]:
        """Return what the model detects in an image or sensor window; safe from any thread.

        Args:
            data: An image, shape (height, width, 3), uint8, BGR as OpenCV reads it; the path or the bytes of
                a picture; a sensor window, shape (samples, channels), real numbers in the sensor's units; a
                row of a table, by column name or as a list of values; or a list of these, which gives a list.

        Returns:
            The task-level result, best item first; boxes in pixels of ``data``.

        Raises:
            TensorError: ``data`` has the wrong shape or dtype, or is no picture.
            InferenceError: The runtime failed on this input.
        """
        predictor = self._ready.predictor
        if self.manifest.pre.columns and not _is_rows(data):
            return seen(predictor.predict(data))
        if isinstance(data, list):
            is_table = bool(self.manifest.pre.columns)
            samples = data if is_table else [sample_of(sample) for sample in data]
            return [seen(row) for row in predictor.predict_many(samples)]
        return seen(predictor.predict(sample_of(data)))

    def predict_many(self, samples: Sequence[FrameData] | Mapping[str, Sequence[Any]]) -> list[Seen]:
        """Return what ``predict`` returns for each sample, run in batches of ``load(batch=...)``.

        Args:
            samples: Arrays or rows, as ``predict`` takes them, windows in the order of time; or a table, a
                mapping of column to values.

        Raises:
            TensorError: One has the wrong shape or dtype; the error names its number.
            InferenceError: The runtime failed.
        """
        return [seen(prediction) for prediction in self._ready.predictor.predict_many(samples)]

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

    def reset(self) -> None:
        """Forget recurrent state and previous samples, as at the start of another recording."""
        self._ready.predictor.reset()

    def __repr__(self) -> str:
        lines = [
            (
                f"<edgekit.Model {self.manifest.model} {self.manifest.version}: {self.manifest.task}, "
                f"variant {self.variant.id} ({self.variant.backend} on {self._ready.backend.accelerator})"
            )
        ]
        rows = (("input", self.manifest.inputs), ("output", self.manifest.outputs))
        lines += [f"  {what} {s.name}: {s.datatype} {list(s.shape)}" for what, specs in rows for s in specs]
        labels = self._ready.labels
        if labels:
            more = f", ... {len(labels)} in all" if len(labels) > 4 else ""
            lines.append(f"  labels: {', '.join(labels[:4])}{more}")
        return "\n".join(lines) + ">"

    def gallery(self, path: Path | str | None = None) -> Gallery:
        """Return an empty gallery for this embedding model, or the one in a file.

        ``gallery.add(name, result.best.vector)`` adds a picture's vector, ``gallery.save(path)`` writes the
        file that ``load(..., gallery=path)`` takes.

        Raises:
            ConfigError: The model makes no embeddings, or the file is no gallery of its bundle.
        """
        return self._ready.gallery(None if path is None else Path(path))

    def close(self) -> None:
        """Free the model; safe to call twice."""
        self._ready.close()

    def __enter__(self) -> Model:  # noqa: PYI034 - typing.Self is newer than Python 3.10
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def load(
    path: Path | str,
    *,
    variant: str | None = None,
    threads: int | None = None,
    batch: int | None = None,
    score_threshold: float | None = None,
    iou_threshold: float | None = None,
    top_k: int | None = None,
    gallery: Path | str | None = None,
) -> Model:
    """Open the variant of a bundle that fits this machine best, checked on its golden samples.

    Args:
        path: Bundle folder, ``.ekb`` file, or bare model file.
        variant: The only variant to consider.
        threads: CPU threads for the runtime; all cores but one by default.
        batch: How many samples ``predict_many`` runs at once; variants not built for that many are passed
            over. By default the variant's own, mostly 1.
        score_threshold: In place of the bundle's, 0 to 1, as are ``iou_threshold`` and ``top_k``.
        iou_threshold: How much two boxes of one class may overlap.
        top_k: The most classes of a classifier.
        gallery: A file with the names that an embedding model's answers get; see ``Model.gallery``.

    Raises:
        BundleError: The bundle is at fault.
        NoVariantError: No variant runs here; ``reasons`` says why, for each.
        GoldenError: No variant that runs here gives the recorded answers.
    """
    choices = Choices(
        variant=variant,
        threads=threads,
        batch=batch,
        score_threshold=score_threshold,
        iou_threshold=iou_threshold,
        top_k=top_k,
        gallery=None if gallery is None else Path(gallery),
    )
    return Model(open_ready(path, choices))
