"""One model, from a frame to a prediction: preprocessing, backend, decoder.

Logical tensor names (the manifest's) become the file's here, quantised outputs become real numbers,
and recurrent state is carried from one call to the next.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from edgekit.core.errors import InferenceError, TensorError
from edgekit.core.spec import Manifest, Post, Prediction, TensorSpec, Variant
from edgekit.core.tasks import task_named
from edgekit.pipeline.decoders import Outcome, Setup, make_decoder
from edgekit.pipeline.pre import ImagePre, WindowPre, dequantize, place, quantize

Size = tuple[int, int]

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from edgekit.core.ports import Backend
    from edgekit.pipeline.pre import Placement


@dataclass(slots=True)
class Timed:
    """A prediction and what each stage of it took, in milliseconds; ``raw`` only with decoder "raw"."""

    prediction: Prediction
    pre_ms: float
    infer_ms: float
    post_ms: float
    raw: dict[str, NDArray[np.float32]] | None = None


@dataclass(slots=True)
class Prepared:
    """An image as one predictor's input holds it, and what that took; of use to ``maker`` only."""

    maker: Predictor
    tensor: NDArray[Any]
    placement: Placement
    ms: float


@dataclass(slots=True)
class Inferred:
    """What one inference gave, in memory of its own, ready for ``finish``."""

    outcome: Outcome
    pre_ms: float
    infer_ms: float
    copy_ms: float


class Predictor:
    """Runs one variant of a model on frames. Not for two threads at once.

    Args:
        manifest: The bundle's manifest.
        variant: The variant that the backend has loaded.
        backend: Loaded and proved; closed by ``close``.
        labels: The model's labels, in the order of its classes; empty where it has none.
        post: In place of the manifest's ``post`` (thresholds that a pipeline overrides).

    Raises:
        TensorError: The file's tensors are not what the manifest says.
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
    ) -> None:
        what = f"{manifest.model} {manifest.version}"
        task_named(manifest.task, what)
        self.manifest, self.variant, self.backend = manifest, variant, backend
        self.labels = tuple(labels)
        self._post = post or manifest.post
        self._inputs = _bind(manifest.inputs, variant.inputs, backend.inputs, "input")
        self._outputs = _bind(manifest.outputs, variant.outputs, backend.outputs, "output")
        states = {state.input for state in manifest.state}
        data = [spec for spec in manifest.inputs if spec.name not in states]
        self._data = data[0] if len(data) == 1 else None
        self._pre = self._make_pre()
        self._early = self._make_pre()  # scratch memory of its own, for the thread that prepares
        self._state = {name: self._zeros(name) for name in states}
        size = (self._pre.width, self._pre.height) if isinstance(self._pre, ImagePre) else None
        shapes = {spec.name: spec.shape for spec in manifest.outputs}
        self._decode = make_decoder(Setup(self._post, self.labels, shapes, size, what))

    def _make_pre(self) -> ImagePre | WindowPre | None:
        """Return the preprocessing of the one data input; None for a model of raw tensors."""
        manifest = self.manifest
        if self._data is None or manifest.task == "raw":
            return None
        spec = self._inputs[self._data.name]
        layout = self.variant.layout or self._data.layout
        if manifest.pre.window:
            return WindowPre(manifest.pre, spec, layout)
        return ImagePre(manifest.pre, spec, layout or "NHWC")

    def _zeros(self, name: str) -> NDArray[np.float32]:
        return np.zeros([max(length, 1) for length in self._inputs[name].shape], np.float32)

    def reset(self) -> None:
        """Forget recurrent state and the samples before, as at the start of a recording."""
        for held in self._state.values():
            held[:] = 0
        if isinstance(self._pre, WindowPre):
            self._pre.reset()
        if (reset := getattr(self.backend, "reset", None)) is not None:
            reset()  # a runtime that keeps variables inside the model

    def warm(self) -> None:
        """Run once on zeros, so that the first frame does not pay for lazy set-up, then reset."""
        for name, spec in self._inputs.items():
            view = self.backend.view(spec.name)
            view[...] = 0
            del view, name
        self.backend.run()
        self.reset()

    def predict(self, data: NDArray[Any]) -> Prediction:
        """Return what the model says of an image or window.

        Args:
            data: As ``Frame.data``: an image (height, width, 3), uint8, BGR; or a sensor window
                (samples, channels).

        Raises:
            TensorError: It is not what the model takes.
            InferenceError: The runtime failed, or an output is not finite.
            AcceleratorLostError: The accelerator is gone.
        """
        return self.timed(data).prediction

    def timed(self, data: NDArray[Any]) -> Timed:
        """Return the prediction and what each stage took; raises as ``predict`` does."""
        return self.finish(self.infer(data))

    def prepare(self, data: NDArray[Any]) -> Prepared | None:
        """Do ahead of time all that needs no model. None for windows, whose order counts.

        One other thread than the one that infers may do this.

        Raises:
            TensorError: It is not what the model takes.
        """
        if not isinstance(self._early, ImagePre):
            return None
        began = time.perf_counter_ns()
        resized, placement = self._early.resize(data)
        tensor = self._early.tensor(resized)
        return Prepared(self, tensor, placement, (time.perf_counter_ns() - began) / 1e6)

    def infer(self, data: NDArray[Any], prepared: Prepared | None = None) -> Inferred:
        """Run the model; raises as ``predict`` does.

        Args:
            data: As ``predict`` takes it.
            prepared: What ``prepare`` made of it; ignored if another predictor did.
        """
        began = time.perf_counter_ns()
        outcome = Outcome({})
        early_ms = self._feed(data, outcome, prepared)
        fed = time.perf_counter_ns()
        held = self.backend.run()
        ran = time.perf_counter_ns()
        outcome.tensors = {name: np.array(tensor) for name, tensor in self._logical(held).items()}
        copied = time.perf_counter_ns()
        return Inferred(outcome, early_ms + (fed - began) / 1e6, (ran - fed) / 1e6, (copied - ran) / 1e6)

    def finish(self, inferred: Inferred) -> Timed:
        """Decode what an inference gave; another thread than the one that infers may do this.

        Raises:
            InferenceError: An output is not finite.
            TensorError: An output is not what the decoder takes.
        """
        began = time.perf_counter_ns()
        outcome = inferred.outcome
        raw = dict(outcome.tensors) if self._post.decoder == "raw" else None
        if raw is None:
            _check_finite(outcome.tensors)
        prediction = Prediction(task=self.manifest.task, items=self._decode(outcome))
        post_ms = inferred.copy_ms + (time.perf_counter_ns() - began) / 1e6
        return Timed(prediction, inferred.pre_ms, inferred.infer_ms, post_ms, raw)

    def failed(self) -> None:
        """Take notice that a frame failed in a loop; for those who count."""

    def _feed(self, data: NDArray[Any], outcome: Outcome, prepared: Prepared | None) -> float:
        """Write a frame into the backend's input; return the milliseconds it took ahead of time."""
        if self._data is None or self._pre is None:
            raise TensorError(
                f"{self.manifest.model!r} has raw tensors and takes no frames", hint="use its raw inference"
            )
        self._feed_states()
        # a view is dropped with the frame of a call: LiteRT refuses to run while one is held
        name = self._inputs[self._data.name].name
        if isinstance(self._pre, WindowPre):
            outcome.fed = self._pre.normalize(data)
            self._pre.fill(outcome.fed, self.backend.view(name))
        elif prepared is not None and prepared.maker is self:
            outcome.placement = prepared.placement
            np.copyto(self.backend.view(name), prepared.tensor)
            return prepared.ms
        else:
            resized, outcome.placement = self._pre.resize(data)
            self._pre.fill(resized, self.backend.view(name))
        return 0.0

    def _feed_states(self) -> None:
        for name, held in self._state.items():
            spec = self._inputs[name]
            self.backend.view(spec.name)[...] = quantize(held, spec)

    def _logical(self, held: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """Return the outputs by logical name, as reals, in the manifest's shapes; keep the state."""
        tensors = {}
        for spec in self.manifest.outputs:
            file_spec = self._outputs[spec.name]
            real = dequantize(held[file_spec.name], file_spec)
            tensors[spec.name] = shape_as(real, spec, self.variant.layout)
        for state in self.manifest.state:
            kept = self._state[state.input]
            np.copyto(kept, tensors[state.output].reshape(kept.shape))
        return tensors

    def run_golden(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """Run on the inputs of a golden sample.

        Args:
            feeds: Logical inputs by name, as they stand after resizing and recolouring and before
                normalising: an image model takes uint8 (1, height, width, channels); a window model
                (1, window, channels), with or without its context; a raw model its tensors. A state
                that is not given is zeros.

        Returns:
            Logical outputs by name, real numbers, float32, in the manifest's shapes; copies.

        Raises:
            TensorError: An input is missing, unknown, or of another shape or dtype.
            InferenceError: The runtime failed.
        """
        unknown = [name for name in feeds if name not in self._inputs]
        missing = [name for name in self._inputs if name not in feeds and name not in self._state]
        if unknown or missing:
            raise TensorError(f"golden inputs: missing {missing}, unknown {unknown}")
        self.reset()
        for name, held in self._state.items():
            if name in feeds:
                np.copyto(held, np.asarray(feeds[name], np.float32).reshape(held.shape))
        self._feed_states()
        for name, array in feeds.items():
            if name not in self._state:
                self._fill_golden(name, np.asarray(array))
        outputs = {name: np.array(tensor) for name, tensor in self._logical(self.backend.run()).items()}
        self.reset()
        return outputs

    def image_input(self) -> tuple[int, ...] | None:
        """Return the shape of the image that ``fill_image`` takes; None where the model takes none."""
        return self._pre.logical_shape[1:] if isinstance(self._pre, ImagePre) else None

    def fill_image(self, resized: NDArray[np.uint8]) -> None:
        """Write an image of the model's own size into the backend's input, normalised as it wants."""
        if isinstance(self._pre, ImagePre) and self._data is not None:
            self._pre.fill(resized, self.backend.view(self._inputs[self._data.name].name))

    def decode(
        self, tensors: Mapping[str, NDArray[np.float32]], feeds: Mapping[str, NDArray[Any]], size: Size | None
    ) -> Prediction:
        """Return the prediction that outputs of ``run_golden`` stand for.

        Args:
            tensors: What ``run_golden`` returned.
            feeds: What it was given.
            size: Width and height of the source picture, for boxes in its pixels; None for the
                model's own input.

        Raises:
            TensorError: An output is not what the decoder takes.
        """
        outcome = Outcome(tensors)
        if isinstance(self._pre, ImagePre):
            target = (self._pre.width, self._pre.height)
            pre = self.manifest.pre
            resize = pre.resize if size else "stretch"
            outcome.placement = place(resize, size or target, target, pre.crop_ratio)
        elif isinstance(self._pre, WindowPre) and self._data is not None:
            outcome.fed = self._pre.normalize(np.asarray(feeds[self._data.name]), keep=False)
        return Prediction(task=self.manifest.task, items=self._decode(outcome))

    def _fill_golden(self, name: str, array: NDArray[Any]) -> None:
        spec = self._inputs[name]
        pre = self._pre if self._data is not None and name == self._data.name else None
        if isinstance(pre, ImagePre):
            if array.dtype != np.uint8 or array.shape not in (pre.logical_shape, pre.logical_shape[1:]):
                raise TensorError(
                    f"golden input {name!r}: want uint8 {pre.logical_shape}, got {array.dtype} {array.shape}"
                )
            pre.fill(np.ascontiguousarray(array.reshape(pre.logical_shape[1:])), self.backend.view(spec.name))
        elif isinstance(pre, WindowPre):
            pre.fill(pre.normalize(array, keep=False), self.backend.view(spec.name))
        else:
            view = self.backend.view(spec.name)
            if array.size != view.size:
                raise TensorError(f"golden input {name!r}: want shape {view.shape}, got {array.shape}")
            held = quantize(array, spec) if spec.quantization else array.astype(view.dtype)
            np.copyto(view, self._turned(name, held).reshape(view.shape))

    def _turned(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        """Return an input of four axes in the file's layout, where that is not the manifest's."""
        logical = next(spec.layout for spec in self.manifest.inputs if spec.name == name)
        if array.ndim != 4 or not self.variant.layout or not logical or self.variant.layout == logical:
            return array
        turned: NDArray[Any] = array.transpose((0, 3, 1, 2) if logical == "NHWC" else (0, 2, 3, 1))
        return turned

    def close(self) -> None:
        """Free the backend; safe to call twice."""
        self.backend.close()


def with_overrides(
    post: Post, *, score_threshold: float | None, iou_threshold: float | None, top_k: int | None
) -> Post:
    """Return a manifest's ``post`` with what a pipeline's ``[model]`` table sets in its place."""
    given = {"score_threshold": score_threshold, "iou_threshold": iou_threshold, "top_k": top_k}
    return msgspec.structs.replace(post, **{key: value for key, value in given.items() if value is not None})


def shape_as(real: NDArray[np.float32], spec: TensorSpec, file_layout: str) -> NDArray[np.float32]:
    """Return an output of a file in its logical shape.

    Axes of length 1 come and go freely; an output of four axes whose logical layout is NHWC is
    turned where the file's is NCHW, and the other way round.

    Raises:
        TensorError: The sizes differ.
    """
    if real.ndim == 4 and spec.layout and file_layout and spec.layout != file_layout:
        real = real.transpose((0, 2, 3, 1) if spec.layout == "NHWC" else (0, 3, 1, 2))
    wanted = spec.shape
    if fits(real.shape, wanted):
        return real
    free = wanted.count(-1)
    if free <= 1 and fits(squeezed(real.shape), squeezed(wanted)):
        return real.reshape(wanted)
    raise TensorError(f"output {spec.name!r}: want shape {list(wanted)}, got {list(real.shape)}")


def fits(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    """Return whether a shape is the wanted one; -1 stands for any length on either side."""
    return len(shape) == len(wanted) and all(
        -1 in (a, b) or a == b for a, b in zip(shape, wanted, strict=True)
    )


def squeezed(shape: Sequence[int]) -> tuple[int, ...]:
    """Return a shape without its axes of length 1."""
    return tuple(length for length in shape if length != 1)


def _bind(
    logical: Sequence[TensorSpec], renamed: Mapping[str, str], found: Sequence[TensorSpec], what: str
) -> dict[str, TensorSpec]:
    """Return the file's tensor for each logical name."""
    by_name = {spec.name: spec for spec in found}
    bound = {}
    for spec in logical:
        name = renamed.get(spec.name, spec.name)
        if name not in by_name:
            raise TensorError(
                f"{what} {spec.name!r}: the file has no tensor {name!r}",
                reasons=tuple(f"it has {s.name!r}, {s.datatype} {list(s.shape)}" for s in found),
                hint=f"map the logical name to the file's in the variant's {what}s",
            )
        bound[spec.name] = by_name[name]
    return bound


def _check_finite(tensors: Mapping[str, NDArray[np.float32]]) -> None:
    for name, tensor in tensors.items():
        # the extremes of an array with a NaN are NaN, and this is cheaper than a mask of its size
        if tensor.size and not (np.isfinite(tensor.min()) and np.isfinite(tensor.max())):
            raise InferenceError(f"output {name!r} has a value that is not a finite number")
