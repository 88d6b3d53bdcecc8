"""One model, from a frame to a prediction: preprocessing, backend, decoder, recurrent state."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.base.dtypes import TEXT
from edgekit.core.errors import TensorError
from edgekit.core.ports import Backend, FrameData
from edgekit.core.spec import Manifest, Post, Prediction, Variant
from edgekit.core.tasks import task_named
from edgekit.pipeline.decoders import Outcome, Setup, make_decoder
from edgekit.pipeline.file_tensors import FileTensors, check_finite
from edgekit.pipeline.gallery import Gallery
from edgekit.pipeline.pre import ImagePre, WindowPre, place, quantize
from edgekit.pipeline.table import TablePre
from edgekit.pipeline.timed import Inferred, Prepared, Timed

if TYPE_CHECKING:
    from edgekit.pipeline.moving_crop import MovingCrop


class Predictor:
    """Runs one variant of a model on frames, from any thread: one inference at a time.

    ``batch`` is the number of samples in one run, as the backend was opened; ``predict_many`` fills it.
    Several users of one backend have a predictor each (``shares``), with its own state, and samples and
    thresholds: not for a model whose file keeps state (``backend.keeps_state``).

    Args:
        manifest: The bundle's manifest.
        variant: The variant that the backend has loaded.
        backend: Loaded and proved; closed by ``close``.
        labels: The model's, in the order of its classes; empty if it has none.
        post: Replaces the manifest's.
        shares: The predictor that has this backend already; ``close`` of any frees it for all.
        gallery: Names for an embedding model.

    Raises:
        TensorError: The file's tensors differ from the manifest's.
        BundleError: The task or the decoder is unknown, or the decoder's options are wrong.
        ConfigError: It is an image model, and OpenCV is not installed.
    """

    def __init__(
        self,
        manifest: Manifest,
        variant: Variant,
        backend: Backend,
        labels: Sequence[str] = (),
        *,
        post: Post | None = None,
        shares: Predictor | None = None,
        gallery: Gallery | None = None,
    ) -> None:
        what = f"{manifest.model} {manifest.version}"
        task_named(manifest.task, what)
        self.manifest, self.variant, self.backend = manifest, variant, backend
        self.labels = tuple(labels)
        self._post = post or manifest.post
        # the input memory, the scratch of preprocessing, and the state
        self._lock: Any = shares._lock if shares else threading.RLock()  # noqa: SLF001 - of this class
        self._tensors = FileTensors(manifest, variant, backend)
        self.batch = self._tensors.batch
        data = manifest.data_inputs()
        self._data = data[0] if len(data) == 1 else None
        columns = manifest.pre.columns
        self._table = TablePre(columns, data, what) if columns else None
        self._pre = self._make_pre()
        self._early = self._make_pre()  # with its own scratch memory, for the thread that prepares
        self._state = {state.input: self._zeros(state.input) for state in manifest.state}
        self._constants = {
            name: self._tensors.constant(name, values) for name, values in manifest.constants.items()
        }
        size = (self._pre.width, self._pre.height) if isinstance(self._pre, ImagePre) else None
        shapes = {spec.name: spec.shape for spec in manifest.outputs}
        self._setup = Setup(self._post, self.labels, shapes, size, what, gallery=gallery)
        self._decode = make_decoder(self._setup)
        self._crop = _moving_crop(self._post, self._setup)

    @property
    def threshold(self) -> float:
        """The score from which the bundle would have items reported."""
        return self.manifest.post.score_threshold

    def _make_pre(self) -> ImagePre | WindowPre | None:
        manifest = self.manifest
        if self._data is None or manifest.task == "raw" or manifest.pre.columns:
            return None
        spec = self._tensors.inputs[self._data.name]
        layout = self.variant.layout or self._data.layout
        if manifest.pre.window:
            return WindowPre(manifest.pre, spec, layout)
        return ImagePre(manifest.pre, spec, layout or "NHWC")

    def _zeros(self, name: str) -> NDArray[np.float32]:
        return np.zeros([max(length, 1) for length in self._tensors.inputs[name].shape], np.float32)

    def reset(self) -> None:
        """Forget recurrent state, previous samples, and what the decoder smooths over."""
        with self._lock:
            for held in self._state.values():
                held[:] = 0
            if isinstance(self._pre, WindowPre):
                self._pre.reset()
            for forget in self._setup.on_reset:
                forget()
            if (reset := getattr(self.backend, "reset", None)) is not None:
                reset()  # of variables inside the model

    @property
    def post(self) -> Post:
        """How outputs are decoded: the manifest's ``post``, or what replaces it."""
        return self._post

    def retune(self, post: Post) -> None:
        """Decode with other thresholds from the next frame on; what the decoder smooths over is forgotten.

        Raises:
            BundleError: The decoder's options are wrong.
        """
        setup = dataclasses.replace(self._setup, post=post, on_reset=[])
        decode = make_decoder(setup)
        with self._lock:
            self._post, self._setup, self._decode = post, setup, decode
            self._crop = _moving_crop(post, setup)

    def warm(self) -> None:
        """Run once on zeros, so that lazy set-up does not delay the first frame, then reset."""
        with self._lock:
            for spec in self._tensors.inputs.values():
                view = self.backend.view(spec.name)
                view[...] = "" if view.dtype == TEXT else 0
                del view  # LiteRT refuses to run while one is held
            self._feed_states()
            self.backend.run()
            self.reset()

    def predict(self, data: FrameData) -> Prediction:
        """Return the prediction for an image or window.

        Args:
            data: An image (height, width, 3), uint8, BGR; a sensor window (samples, channels); or a row of a
                table, a mapping of column to value or the values in the columns' order.

        Raises:
            TensorError: It does not fit the model's input.
            InferenceError: The runtime failed, or an output is not finite.
            AcceleratorLostError: The accelerator is gone.
        """
        return self.finish(self.infer(data)).prediction

    def predict_many(self, samples: Sequence[FrameData] | Mapping[str, Sequence[Any]]) -> list[Prediction]:
        """Return the prediction for each sample (in order of time), ``batch`` of them in a run.

        The samples of a model of tables may be a mapping of column to values.

        Raises as ``predict`` does; a ``TensorError`` names the sample's number.
        """
        return [self.finish(inferred).prediction for inferred in self.infer_many(self._rows(samples))]

    def infer_many(self, samples: Sequence[FrameData]) -> list[Inferred]:
        """Run the model on each sample, ``batch`` of them in a run; raises as ``predict_many`` does.

        The milliseconds of a run are shared evenly by its samples.
        """
        found: list[Inferred] = []
        with self._lock:
            for first in range(0, len(samples), self.batch):
                outcomes = [Outcome({}) for _ in samples[first : first + self.batch]]
                began = time.perf_counter_ns()
                for row, outcome in enumerate(outcomes):
                    self._feed_row(samples, first + row, outcome, row)
                fed = time.perf_counter_ns()
                held = self.backend.run()
                ran = time.perf_counter_ns()
                copies = [self._take(held, outcome, row) for row, outcome in enumerate(outcomes)]
                marks = (began, fed, ran, time.perf_counter_ns())
                shares = [(after - before) / 1e6 / len(outcomes) for before, after in pairwise(marks)]
                found += [Inferred(*taken, *shares) for taken in zip(outcomes, copies, strict=True)]
        return found

    def _rows(self, samples: Sequence[FrameData] | Mapping[str, Sequence[Any]]) -> Sequence[FrameData]:
        if not isinstance(samples, Mapping):
            return samples
        if self._table is None:
            raise TensorError("want a list of samples: only a model of tables takes columns")
        return self._table.rows(samples)

    def prepare(self, data: FrameData) -> Prepared | None:
        """Return an image's preprocessed tensor; None for windows, whose order matters.

        One thread may do this while another one infers.

        Raises:
            TensorError: It does not fit the model's input.
        """
        if not isinstance(self._early, ImagePre) or not isinstance(data, np.ndarray) or self._crop:
            return None  # a moving crop waits for what the picture before showed
        began = time.perf_counter_ns()
        resized, placement = self._early.resize(data)
        tensor = self._early.tensor(resized)
        return Prepared(self, tensor, placement, (time.perf_counter_ns() - began) / 1e6)

    def infer(self, data: FrameData, prepared: Prepared | None = None) -> Inferred:
        """Run the model; raises as ``predict`` does.

        ``prepared``, the result of ``prepare``, is ignored if it is another predictor's.
        """
        outcome = Outcome({})
        with self._lock:
            began = time.perf_counter_ns()
            early_ms = self._feed(data, outcome, prepared)
            fed = time.perf_counter_ns()
            held = self.backend.run()
            ran = time.perf_counter_ns()
            copies = self._take(held, outcome)
            copied = time.perf_counter_ns()
        times_ms = (early_ms + (fed - began) / 1e6, (ran - fed) / 1e6, (copied - ran) / 1e6)
        return Inferred(outcome, copies, *times_ms)

    def finish(self, inferred: Inferred) -> Timed:
        """Return the decoded prediction of an inference; may run in another thread than ``infer``.

        Raises:
            InferenceError: An output is not finite.
            TensorError: An output does not fit the manifest or the decoder.
        """
        began = time.perf_counter_ns()
        if inferred.copies:
            inferred.outcome.tensors = self._tensors.real(inferred.copies)
        prediction = self._decoded(inferred.outcome)
        post_ms = inferred.copy_ms + (time.perf_counter_ns() - began) / 1e6
        return Timed(prediction, inferred.pre_ms, inferred.infer_ms, post_ms)

    def _decoded(self, outcome: Outcome) -> Prediction:
        if self._post.decoder == "raw":
            return Prediction(task=self.manifest.task, tensors=dict(outcome.tensors))
        check_finite(outcome.tensors, self._tensors.unbounded)
        prediction = self._prediction(outcome)
        if self._crop and outcome.placement is not None:
            self._crop.follow(prediction.items, (outcome.placement.width, outcome.placement.height))
        return prediction

    def _prediction(self, outcome: Outcome) -> Prediction:
        items = self._decode(outcome)
        return Prediction(task=self.manifest.task, items=items, tensors=dict(outcome.maps))

    def answered(self, found: Sequence[Timed]) -> None:
        """Do nothing; a subclass counts what a later stage found in the crops of a frame."""

    def failed(self) -> None:
        """Do nothing; a subclass counts the failed frames of a loop."""

    def require_frames(self) -> None:
        """Check that the model takes images or sensor windows.

        Raises:
            TensorError: It has raw tensors or several inputs.
        """
        if self._table is None and (self._data is None or self._pre is None):
            raise self._no_frames()

    def _no_frames(self) -> TensorError:
        return TensorError(
            f"{self.manifest.model!r} takes raw tensors: images and sensor windows cannot be fed to it",
            hint="give its tensors by name, to Model.infer in Python or to 'edgekit serve'; "
            "or publish it with a task and 'pre', see docs/bundle.md",
        )

    def _feed(
        self, data: FrameData, outcome: Outcome, prepared: Prepared | None = None, row: int = 0
    ) -> float:
        """Write a frame into a row of the input; return the milliseconds spent in ``prepare``."""
        if self._table is not None:
            self._feed_states()
            for name, array in self._table.tensors(data).items():
                self._tensors.fill(name, array, row)
            return 0.0
        if self._data is None or self._pre is None:
            raise self._no_frames()
        if not isinstance(data, np.ndarray):
            raise TensorError(
                f"want a NumPy array, got {type(data).__name__}",
                hint="an image is (height, width, 3) uint8, a window (samples, channels)",
            )
        self._feed_states()
        # no view outlives its call: LiteRT refuses to run while one is held
        name = self._data.name
        if isinstance(self._pre, WindowPre):
            outcome.fed = self._pre.normalize(data)
            self._pre.fill(outcome.fed, self._tensors.view(name, row))
        elif prepared is not None and prepared.maker is self:
            outcome.placement = prepared.placement
            np.copyto(self._tensors.view(name, row), prepared.tensor)
            return prepared.ms
        else:
            shown, corner = self._crop.cut(data) if self._crop else (data, (0, 0))
            resized, outcome.placement = self._pre.resize(shown)
            if shown is not data:
                outcome.placement = outcome.placement.of_whole(corner, (data.shape[1], data.shape[0]))
            self._pre.fill(resized, self._tensors.view(name, row))
        return 0.0

    def _feed_row(self, samples: Sequence[FrameData], number: int, outcome: Outcome, row: int) -> None:
        try:
            self._feed(samples[number], outcome, row=row)
        except TensorError as error:
            raise TensorError(
                f"sample {number + 1} of {len(samples)}: {error.message}", hint=error.hint
            ) from error

    def _feed_states(self) -> None:
        for name, held in self._state.items():
            self._tensors.view(name)[...] = quantize(held, self._tensors.inputs[name])
        for name, value in self._constants.items():
            self._tensors.view(name)[...] = quantize(value, self._tensors.inputs[name])

    def _take(
        self, held: Mapping[str, NDArray[Any]], outcome: Outcome, row: int = 0
    ) -> dict[str, NDArray[Any]]:
        """Return copies of a sample's outputs; none where the next run needs their real numbers."""
        if not self._state:
            return self._tensors.copies(held, row)
        outcome.tensors = self._tensors.reals(held, row)
        for state in self.manifest.state:
            kept = self._state[state.input]
            np.copyto(kept, outcome.tensors[state.output].reshape(kept.shape))
        return {}

    def run_golden(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """Return the outputs for a golden sample: float32 copies by logical name, in the manifest's shapes.

        Args:
            feeds: Logical inputs by name, resized and recoloured but not normalised: an image model takes
                uint8 (1, height, width, channels); a window model (1, window, channels), with or without
                its context; a raw model its tensors. A missing state is zeros.

        Raises:
            TensorError: An input is missing, unknown, or of another shape or dtype.
            InferenceError: The runtime failed.
        """
        return self._run_alone(feeds, self._tensors.reals)

    def run_together(self, samples: Sequence[Mapping[str, NDArray[Any]]]) -> list[dict[str, NDArray[Any]]]:
        """Return what ``run_golden`` does for each of at most ``batch`` samples, in one run.

        Only for a model without state. Raises as ``run_golden`` does.
        """
        with self._lock:
            self.reset()
            for row, feeds in enumerate(samples):
                self._fill_tensors(feeds, row)
            held = self.backend.run()
            outputs = [self._tensors.reals(held, row) for row in range(len(samples))]
            self.reset()
        return outputs

    def run_tensors(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the outputs for logical tensors, as ``run_golden``, but in the manifest's datatypes.

        A quantised file takes real numbers, or its integers if the manifest has the file's datatype.
        """
        return self._run_alone(feeds, self._tensors.typed)

    def _run_alone(
        self,
        feeds: Mapping[str, NDArray[Any]],
        read: Callable[[Mapping[str, NDArray[Any]]], dict[str, NDArray[Any]]],
    ) -> dict[str, NDArray[Any]]:
        """Run one sample's tensors, without state from before or for after."""
        with self._lock:
            self.reset()
            self._fill_tensors(feeds)
            outputs = read(self.backend.run())
            self.reset()
        return outputs

    def run_between(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """As ``run_golden``, between two frames: state and previous samples stay as they are.

        Not for a model whose file keeps state (``backend.keeps_state``).
        """
        with self._lock:
            kept = {name: held.copy() for name, held in self._state.items()}
            try:
                for held in self._state.values():
                    held[:] = 0
                self._fill_tensors(feeds)
                return self._tensors.reals(self.backend.run())
            finally:
                self._state.update(kept)

    def _fill_tensors(self, feeds: Mapping[str, NDArray[Any]], row: int = 0) -> None:
        inputs = self._tensors.inputs
        unknown = [name for name in feeds if name not in inputs]
        missing = [spec.name for spec in self.manifest.data_inputs() if spec.name not in feeds]
        if unknown or missing:
            raise TensorError(
                f"the inputs do not fit the model: missing {missing}, unknown {unknown}",
                hint=f"give {', '.join(map(repr, inputs))}",
            )
        for name, held in self._state.items():
            if name in feeds:
                np.copyto(held, np.asarray(feeds[name], np.float32).reshape(held.shape))
        self._feed_states()
        for name, array in feeds.items():
            if name not in self._state:
                self._fill_golden(name, np.asarray(array), row)

    def image_input(self) -> tuple[int, ...] | None:
        """Return the shape of the image for ``fill_image``; None if the model takes no images."""
        return self._pre.logical_shape[1:] if isinstance(self._pre, ImagePre) else None

    def resized(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return an image in the model's size and colours, as golden samples hold it: (1, height, width, c).

        Raises:
            TensorError: It is no such image, or the model takes no images.
        """
        if not isinstance(self._early, ImagePre):
            raise self._no_frames()
        return np.array(self._early.resize(image)[0][None])

    def fill_image(self, resized: NDArray[np.uint8]) -> None:
        """Write an image of the model's size into the backend's input, normalised."""
        if isinstance(self._pre, ImagePre) and self._data is not None:
            self._pre.fill(resized, self._tensors.view(self._data.name))

    def decode(
        self,
        tensors: Mapping[str, NDArray[np.float32]],
        feeds: Mapping[str, NDArray[Any]],
        size: tuple[int, int] | None,
    ) -> Prediction:
        """Return the prediction of ``run_golden``'s outputs.

        Args:
            tensors: The result of ``run_golden``.
            feeds: Its feeds.
            size: Width and height of the source picture, for boxes in its pixels; None for boxes in
                pixels of the model's input.

        Raises:
            TensorError: An output does not fit the decoder.
        """
        outcome = Outcome(tensors)
        if isinstance(self._pre, ImagePre):
            target = (self._pre.width, self._pre.height)
            pre = self.manifest.pre
            resize = pre.resize if size else "stretch"
            outcome.placement = place(resize, size or target, target, pre.crop_ratio, pre.align)
        elif isinstance(self._pre, WindowPre) and self._data is not None:
            outcome.fed = self._pre.normalize(np.asarray(feeds[self._data.name]), keep=False)
        return self._prediction(outcome)

    def _fill_golden(self, name: str, array: NDArray[Any], row: int) -> None:
        pre = self._pre if self._data is not None and name == self._data.name else None
        if isinstance(pre, ImagePre):
            if array.dtype != np.uint8 or array.shape not in (pre.logical_shape, pre.logical_shape[1:]):
                raise TensorError(
                    f"input {name!r}: want uint8 {pre.logical_shape}, got {array.dtype} {array.shape}"
                )
            pixels = np.ascontiguousarray(array.reshape(pre.logical_shape[1:]))
            pre.fill(pixels, self._tensors.view(name, row))
        elif isinstance(pre, WindowPre) and isinstance(self._early, WindowPre):  # it has no samples before
            pre.fill(self._early.normalize(array, keep=False), self._tensors.view(name, row))
        else:
            self._tensors.fill(name, array, row)

    def close(self) -> None:
        """Free the backend once no inference runs; safe to call twice."""
        with self._lock:
            self.backend.close()


def _moving_crop(post: Post, setup: Setup) -> MovingCrop | None:
    """Return the crop that follows a person, where the decoder's options ask for it."""
    if not post.options.get("moving_crop"):
        return None
    from edgekit.pipeline.moving_crop import MovingCrop  # only MoveNet has it

    crop = MovingCrop()
    setup.on_reset.append(crop.reset)
    return crop
