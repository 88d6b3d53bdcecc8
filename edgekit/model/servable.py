"""A model for the server: opened and proved here, used through ``edgekit.serve.ports``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgekit.base.rows import Rows
from edgekit.core.errors import EdgekitError, InferenceError, TensorError
from edgekit.core.spec import Manifest, Prediction, TensorSpec
from edgekit.model.bundle import Bundle, open_bundle
from edgekit.model.exclusions import Exclusions
from edgekit.model.holder import Holder
from edgekit.model.ready import Choices, ReadyModel, open_ready
from edgekit.pipeline.fallback import FallbackTable
from edgekit.pipeline.picture_files import decode_picture
from edgekit.pipeline.pre import vision
from edgekit.pipeline.sent_samples import frames_of, kinds_for
from edgekit.pipeline.sources import source_context
from edgekit.serve.ports import Offer, Servable, Together

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.pipeline.predictor import Predictor

FREE_BATCH, MOST_BATCH = 8, 64
"""The requests that run at once where any number may, and the most of those that a variant lists."""


class _Open:
    """What every servable does with its open model."""

    steps: tuple[dict[str, Any], ...] = ()

    def __init__(self, ready: ReadyModel) -> None:
        self.ready = ready
        self.variant, self.platform = ready.variant.id, _platform(ready)
        self.batch, self.labels = _batch(ready), tuple(ready.labels)
        self.states = tuple((state.input, state.output) for state in ready.manifest.state)
        self.keeps_state = bool(self.states) or bool(getattr(ready.backend, "keeps_state", False))

    def _open_at_batch(self) -> ReadyModel:
        choices = self.ready.choices
        return open_ready(
            self.ready.bundle,
            dataclasses.replace(
                choices,
                variant=self.variant,
                batch=self.batch,
                exclude={},
                pairs=(),
                prove=True,
                hashes=False,
            ),
        )

    def status(self) -> dict[str, Any]:
        """Return the running variant, and why it was chosen."""
        return _status(self.ready)

    def close(self) -> None:
        """Free the backend."""
        self.ready.close()


class RawServable(_Open):
    """A bare model file or a bundle of raw tensors, with the file's own names, types and shapes."""

    takes_images = False
    sample_files: frozenset[str] = frozenset()
    optional_inputs: frozenset[str] = frozenset()

    def __init__(self, ready: ReadyModel) -> None:
        super().__init__(ready)
        if any(spec.shape[:1] != (1,) for spec in ready.backend.inputs):
            self.batch = 1  # a request is a whole batch already
        self._in, self._out = dict(ready.variant.inputs), dict(ready.variant.outputs)
        logical = {file: name for name, file in self._in.items()}
        self.inputs = tuple(_renamed(spec, logical) for spec in ready.backend.inputs)
        self._logical = {file: name for name, file in self._out.items()}
        self.outputs = tuple(_renamed(spec, self._logical) for spec in ready.backend.outputs)

    def infer(self, feeds: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Run the backend on the feeds unchanged."""
        named = {self._in.get(name, name): array for name, array in feeds.items()}
        outputs = self.ready.backend.infer(named)
        return {self._logical.get(name, name): array for name, array in outputs.items()}

    def open_together(self) -> Together:
        """Open the file at its batch size."""
        return _RawTogether(self._open_at_batch(), self._in, self._logical)

    def predict(self, image: bytes) -> Prediction:
        """Raise: the file does not say how an image becomes its tensors."""
        raise TensorError(f"a model of raw tensors takes no image of {len(image)} bytes")

    def predict_samples(self, data: bytes, kind: str) -> Sequence[tuple[Mapping[str, float], Prediction]]:
        """Raise: the file does not say how samples become its tensors."""
        raise TensorError(f"a model of raw tensors takes no {kind} of {len(data)} bytes")


class TaskServable(_Open):
    """A bundle's model with its manifest's tensors, the same whichever variant runs.

    An image model takes the resized image, uint8, NHWC; a window model the window before normalising. Outputs
    are real numbers, and recurrent state starts at zeros unless the request has it. So a client needs no
    change when another variant takes over.
    """

    def __init__(self, ready: ReadyModel, predictor: Predictor) -> None:
        super().__init__(ready)
        self._predictor = predictor
        manifest = ready.manifest
        self.takes_images = takes_images(manifest)
        self._context = source_context(manifest, Path())
        self.sample_files = frozenset() if self.takes_images else kinds_for(self._context)
        self.optional_inputs = frozenset(state.input for state in manifest.state) | manifest.constants.keys()
        self.inputs = tuple(self._input(spec) for spec in manifest.inputs)
        self.outputs = tuple(
            msgspec.structs.replace(spec, datatype="FP32", quantization=None) for spec in manifest.outputs
        )

    def _input(self, spec: TensorSpec) -> TensorSpec:
        if not self.takes_images or spec.name in self.optional_inputs or len(spec.shape) != 4:
            return spec
        batch, *rest = spec.shape
        if spec.layout == "NCHW":
            rest = [*rest[1:], rest[0]]
        return msgspec.structs.replace(spec, datatype="UINT8", shape=(batch, *rest), layout="NHWC")

    def infer(self, feeds: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Run on the manifest's tensors."""
        return self._predictor.run_golden(feeds)

    def open_together(self) -> Together:
        """Open the variant at its batch size, unless it is open so."""
        if self._predictor.batch >= self.batch:
            return _TaskTogether(self._predictor, lambda: None)
        ready = self._open_at_batch()
        return _TaskTogether(ready.predictor, ready.close)

    def predict(self, image: bytes) -> Prediction:
        """Decode an image, with its EXIF rotation, and return what the model detects."""
        pixels = decode_picture(image, "the image")
        self._predictor.reset()
        return self._predictor.predict(pixels)

    def predict_samples(self, data: bytes, kind: str) -> Sequence[tuple[Mapping[str, float], Prediction]]:
        """Return what the model makes of a file's windows, in the order of time, or of its rows."""
        frames = frames_of(data, kind, self._context)
        self._predictor.reset()
        predictions = self._predictor.predict_many([frame for _, frame in frames])
        return [(where, each) for (where, _), each in zip(frames, predictions, strict=True)]


class _RawTogether:
    """A file of raw tensors, open at a batch size."""

    def __init__(self, ready: ReadyModel, renamed: Mapping[str, str], logical: Mapping[str, str]) -> None:
        self._ready, self._logical, self.close = ready, logical, ready.close
        names = {file: name for name, file in renamed.items()}
        self._rows = [
            (names.get(spec.name, spec.name), Rows(ready.backend.view(spec.name)))
            for spec in ready.backend.inputs
        ]
        self._most = max(spec.shape[0] for spec in ready.backend.inputs)

    def run(self, requests: Sequence[Mapping[str, NDArray[Any]]]) -> Sequence[Mapping[str, NDArray[Any]]]:
        """Run on a row of each request."""
        for name, rows in self._rows:
            for row, request in enumerate(requests):
                rows.put(row, request[name])
        outputs = self._ready.backend.run()
        for name, array in outputs.items():
            if (array.shape[0] if array.ndim else 0) != self._most:
                raise InferenceError(f"output {name!r} has no row for each sample: {list(array.shape)}")
        named = {self._logical.get(name, name): array for name, array in outputs.items()}
        return [{name: array[row : row + 1] for name, array in named.items()} for row in range(len(requests))]


class _TaskTogether:
    """A bundle's model, open at a batch size."""

    def __init__(self, predictor: Predictor, close: Callable[[], None]) -> None:
        self.run, self.close = predictor.run_together, close


def takes_images(manifest: Manifest) -> bool:
    """Return whether a model's input is an image."""
    return manifest.task != "raw" and not (manifest.pre.window or manifest.pre.columns)


def servable_of(ready: ReadyModel, predictor: Predictor | None = None) -> RawServable | TaskServable:
    """Return an open model as the server uses it, by a predictor of its own where others use it too."""
    if takes_images(ready.manifest):
        vision().setNumThreads(1)  # OpenCV's own threads would compete with the runtime's
    if ready.manifest.task == "raw" and _has_declared_types(ready):
        return RawServable(ready)
    return TaskServable(ready, predictor or ready.predictor)


class HeldServable:
    """A bundle's model as the server's ``Held``; each variant is tried in a child process first.

    One that aborts its process on a real inference must not take the other models with it. Arguments are
    those of ``Choices`` and ``Holder``; ``on_settled`` is called when a lost variant is not being tried any
    more.

    Raises:
        EdgekitError: As ``open_ready`` does.
    """

    def __init__(
        self,
        source: Bundle | str,
        threads: int | None = None,
        exclusions: Exclusions | None = None,
        on_try: Callable[[str, int], object] = lambda _variant, _left: None,
        *,
        variant: str | None = None,
        device: str = "",
        fallback: FallbackTable | None = None,
        on_settled: Callable[[], object] = lambda: None,
    ) -> None:
        choices = Choices(variant=variant, device=device, threads=threads, prove=True, on_try=on_try)
        self._on_settled = on_settled
        self._holder = Holder(source, choices, exclusions, lambda *_: on_settled(), fallback)
        self.servable: Servable = servable_of(self._holder.ready)

    def recheck(self, waiting: int) -> bool:
        """Run a golden sample again, as ``Holder.recheck``."""
        return self._holder.recheck(self._holder.ready.predictor, waiting)

    def doubt(self) -> None:
        """Have ``recheck`` look soon."""
        self._holder.doubt()

    def rest(self) -> None:
        """Open nothing any more."""
        self._holder.rest(0.0)

    def fail_over(self, lost: Servable, error: EdgekitError) -> Servable:
        """Close a lost variant, and return the one that runs from now on."""
        assert isinstance(lost, _Open)
        self._holder.fail_over(lost.ready.predictor, error)
        self.servable = servable_of(self._holder.ready)
        return self.servable

    def watch(self, switch: Callable[[Servable], object]) -> None:
        """Have lost variants tried again."""

        def take(_: ReadyModel, new: ReadyModel) -> None:
            self._on_settled()
            self.servable = servable_of(new)
            switch(self.servable)

        self._holder.watch(take)

    def status(self) -> dict[str, Any]:
        """Return the lost variants with the reasons, and how often one was tried again in vain."""
        holder = self._holder
        return {"excluded": holder.exclusions.reasons(), "failed_returns": holder.failed_returns}

    def close(self) -> None:
        """Free the model; safe to call twice."""
        self._holder.close()


def offer(
    path: str,
    threads: int | None,
    exclusions: Exclusions | None = None,
    on_try: Callable[[str, int], object] = lambda _variant, _left: None,
) -> Offer:
    """Return the model that can be opened at a path.

    ``exclusions`` are what it lost before; ``on_try`` is called as that of ``Choices``.

    Raises:
        BundleError: The bundle is invalid.
    """
    manifest = open_bundle(path).manifest
    return Offer(manifest.model, manifest.version, lambda: HeldServable(path, threads, exclusions, on_try))


def _batch(ready: ReadyModel) -> int:
    """Return how many requests may run at once: what the variant lists, for a model without state."""
    sizes, manifest = ready.variant.batch, ready.manifest
    specs = (*ready.backend.inputs, *ready.backend.outputs)
    is_text = any(spec.datatype == "BYTES" for spec in specs)
    if manifest.state or is_text or getattr(ready.backend, "keeps_state", False):
        return 1
    if sizes == "free":
        return FREE_BATCH
    return max((size for size in sizes if size <= MOST_BATCH), default=1)


def _has_declared_types(ready: ReadyModel) -> bool:
    """Return whether the file's tensors have the manifest's datatypes, and there is no state."""
    variant, backend = ready.variant, ready.backend
    rows = (
        (ready.manifest.inputs, variant.inputs, backend.inputs),
        (ready.manifest.outputs, variant.outputs, backend.outputs),
    )
    for declared, renamed, actual in rows:
        types = {spec.name: spec.datatype for spec in actual}
        if any(types.get(renamed.get(spec.name, spec.name)) != spec.datatype for spec in declared):
            return False
    return not ready.manifest.state


def _renamed(spec: TensorSpec, names: Mapping[str, str]) -> TensorSpec:
    return msgspec.structs.replace(spec, name=names.get(spec.name, spec.name))


def _platform(ready: ReadyModel) -> str:
    """Return the protocol's name of a platform: the runtime and the file's kind.

    Source: Open Inference Protocol v2, "Platform": PROJECT_FORMAT.
    """
    files = ready.variant.files
    kind = Path(files[0].path).suffix.lstrip(".") if files else ""
    return f"{ready.variant.backend}_{kind}" if kind else ready.variant.backend


def _status(ready: ReadyModel) -> dict[str, Any]:
    return {
        "variant": ready.variant.id,
        "backend": ready.variant.backend,
        "accelerator": ready.backend.accelerator,
        "precision": ready.variant.precision,
        "why": ready.selection.why,
        "rejected": {row.variant: list(row.reasons) for row in ready.selection.rejected},
        "fallbacks": dict(ready.excluded),
        "digest": ready.bundle.digest,
    }
