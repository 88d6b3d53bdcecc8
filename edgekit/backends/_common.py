"""What every backend needs: specs and shapes, checked feeds, and a library's errors in readable form."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.backends.file_facts import FileFacts, file_facts, mapped
from edgekit.base.dtypes import DATATYPES, TEXT
from edgekit.base.install_hint import install_hint
from edgekit.core.errors import (
    AcceleratorLostError,
    BackendError,
    BackendUnavailableError,
    ConfigError,
    InferenceError,
    ModelLoadError,
    StorageError,
    TensorError,
)
from edgekit.core.ports import ModelData
from edgekit.core.spec import Datatype, Quantization, TensorSpec, Variant

_MESSAGE_LENGTH = 300
_NOISE = ("Exception from ", "Check '")


def no_datatype(what: str, dtype: str) -> ModelLoadError:
    """Return the error for a tensor that is no number."""
    return ModelLoadError(
        f"{what} holds {dtype}, which edgekit cannot feed",
        hint="convert the model so that its inputs and outputs are numbers",
    )


def make_spec(
    name: str, dtype: Any, shape: Iterable[int], quantization: Quantization | None = None
) -> TensorSpec:
    """Return the spec of one tensor; ``shape`` has -1 where a dimension is free.

    Raises:
        ModelLoadError: No tensor of edgekit has that dtype.
    """
    try:
        datatype: Datatype = "BYTES" if dtype == TEXT else DATATYPES[np.dtype(dtype)]
    except (KeyError, TypeError) as cause:
        raise no_datatype(f"tensor {name!r}", repr(dtype)) from cause
    return TensorSpec(name=name, datatype=datatype, shape=tuple(map(int, shape)), quantization=quantization)


def fixed_shape(name: str, shape: Sequence[int], options: Mapping[str, Any]) -> tuple[int, ...]:
    """Return an input's shape with every free dimension (-1) fixed.

    ``options["shapes"][name]`` fixes them, or ``options["batch"]``, by default 1, fixes the first.

    >>> fixed_shape("x", (-1, 3, 8, 8), {})
    (1, 3, 8, 8)

    Raises:
        ModelLoadError: A dimension stays free, or the file was built for another shape or batch size.
    """
    requested = options.get("shapes", {}).get(name)
    if requested is not None:
        fits = len(requested) == len(shape) and all(
            size > 0 and free in (-1, size) for size, free in zip(requested, shape, strict=True)
        )
        if not fits:
            raise ModelLoadError(
                f"input {name!r} has shape {tuple(shape)}, options.shapes asks for {tuple(requested)}"
            )
        return tuple(int(size) for size in requested)
    if any(size < 0 for size in shape[1:]):
        raise ModelLoadError(
            f"input {name!r} has free dimensions beside the batch: {tuple(shape)}",
            hint=f"state the shape to run: options.shapes = {{{name!r} = [...]}}",
        )
    batch = options.get("batch", 1)
    if batch > 1 and shape and shape[0] not in (-1, batch):
        raise ModelLoadError(
            f"input {name!r} has shape {tuple(shape)} in the file, options.batch asks for {batch} in front",
            hint="open it at the file's own batch, or export the model with a free batch",
        )
    return tuple(batch if size < 0 else int(size) for size in shape)


def unique_names(names: Iterable[str], fallback: str) -> list[str]:
    """Return a distinct, non-empty name for each tensor.

    >>> unique_names(["a", "", "a"], "output")
    ['a', 'output_1', 'output_2']
    """
    unique: list[str] = []
    for index, name in enumerate(names):
        unique.append(name if name and name not in unique else f"{fallback}_{index}")
    return unique


def _wrong_names(names: list[str], feeds: Mapping[str, Any]) -> TensorError:
    wrong = {
        "missing": [repr(name) for name in names if name not in feeds],
        "unknown": [repr(name) for name in feeds if name not in names],
    }
    return TensorError(
        f"the feeds do not fit the model's {len(names)} inputs",
        reasons=tuple(f"{what}: {', '.join(some)}" for what, some in wrong.items() if some),
        hint=f"feed exactly: {', '.join(map(repr, names))}",
    )


class OpenModel(ABC):
    """What all backends do alike: views of the inputs, checked feeds, an error after ``close``.

    A subclass sets ``inputs``, and keeps the memory of its tensors in ``_arrays`` and ``_results``.
    """

    inputs: tuple[TensorSpec, ...]
    keeps_state = False
    """Whether the file keeps state from run to run, which only ``reset`` clears."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._is_open = True
        self._arrays: dict[str, NDArray[Any]] = {}
        self._results: dict[str, NDArray[Any]] = {}

    def view(self, name: str) -> NDArray[Any]:
        """Return the writable memory of one input; it stays valid until ``close``."""
        try:
            return self._arrays[name]
        except KeyError:
            raise self._no_view(name) from None

    @abstractmethod
    def run(self) -> dict[str, NDArray[Any]]:
        """Run on the input views; return arrays by output name, valid until the next ``run``."""

    def infer(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Copy the feeds into the inputs and ``run``.

        Raises:
            TensorError: A feed is missing, unknown, or of another shape or dtype.
        """
        self._require_open()
        names = [spec.name for spec in self.inputs]
        if feeds.keys() != set(names):
            raise _wrong_names(names, feeds)
        for spec in self.inputs:
            self._copy(spec, feeds[spec.name])
        return self.run()

    def _copy(self, spec: TensorSpec, feed: NDArray[Any]) -> None:
        target = self.view(spec.name)
        shape = getattr(feed, "shape", None)
        if shape != target.shape or feed.dtype != target.dtype:
            raise TensorError(
                f"input {spec.name!r}: want {spec.datatype} {list(target.shape)}, "
                f"got {getattr(feed, 'dtype', type(feed).__name__)} {list(shape or ())}",
                hint="convert the array, or state options.shapes where a dimension is free",
            )
        target[...] = feed

    def reset(self) -> None:
        """Do nothing: the model keeps no state between runs."""
        self._require_open()

    def close(self) -> None:
        """Free everything; safe to call twice."""
        self._is_open = False
        self._arrays, self._results = {}, {}

    def _require_open(self) -> None:
        if not self._is_open:
            raise BackendError(f"{self._name} is closed", hint="open the model again")

    def _no_view(self, name: str) -> TensorError:
        self._require_open()
        names = ", ".join(repr(spec.name) for spec in self.inputs)
        return TensorError(f"the model has no input {name!r}", hint=f"one of: {names}")


def short(error: BaseException | str) -> str:
    r"""Return a library's message on one line, at most 300 characters, without file names.

    >>> short("Exception from a.cpp:84:\nUnable to read   the model")
    'Unable to read the model'
    """
    lines = [line.strip() for line in str(error).splitlines()]
    message = " ".join(" ".join(line for line in lines if not line.startswith(_NOISE)).split())
    message = message or " ".join(" ".join(lines).split()) or type(error).__name__
    return message if len(message) <= _MESSAGE_LENGTH else f"{message[:190]} … {message[-107:]}"


class ModelSource:
    """A model to open: a file, or a variant's files in memory; ``str`` names it in errors.

    Raises:
        ModelLoadError: There is no such file, or it is empty.
    """

    def __init__(self, data: ModelData, variant: Variant) -> None:
        self.parts = (data,) if isinstance(data, bytes) else data if isinstance(data, tuple) else ()
        """The bytes of each file in the variant's order; empty for a file."""
        self.path = None if isinstance(data, bytes | tuple) else data
        size = sum(map(len, self.parts))
        self._name = str(self.path or f"variant {variant.id!r} ({size:,} bytes in memory)")
        self.suffix = (self.path.suffix.lower() if self.path else "") or _suffix_of(self.parts)
        self.part_names = tuple(Path(file.path).name for file in variant.files)
        if self.path is not None and not self.path.is_file():
            raise ModelLoadError(
                f"{self.path}: no such model file", hint="check the path, or install the bundle again"
            )
        if not (size or (self.path is not None and self.path.stat().st_size)):
            raise ModelLoadError(
                f"{self}: the file is empty", hint="the copy was cut short: copy or install it again"
            )

    def __str__(self) -> str:
        return self._name

    def file(self, reader: str) -> Path:
        """Return the path, for a reader that cannot open bytes.

        Raises:
            ModelLoadError: The model is in memory.
        """
        if self.path is None:
            raise ModelLoadError(
                f"{self}: {reader} opens only files", hint="write the model to a file and open that"
            )
        return self.path

    def facts(self) -> FileFacts:
        """Return the file's quantisation.

        Raises:
            ModelLoadError: An input or output has a scale for each channel.
        """
        facts = file_facts(self.parts[0] if self.parts else mapped(self.file("edgekit")), self.suffix)
        if facts.refused:
            names = ", ".join(map(repr, facts.refused))
            raise ModelLoadError(
                f"{self}: {names} has a scale for each channel, which edgekit cannot feed or read",
                hint="export the model with one scale for each input and output, or with float ones",
            )
        return facts


def _suffix_of(parts: tuple[bytes, ...]) -> str:
    head = parts[0][:64] if parts else b""
    if head[4:8] == b"TFL3":
        return ".tflite"
    return ".xml" if head.lstrip().startswith(b"<") else ".onnx"


_UNKNOWN_OPERATOR = (
    "OpConversionFailure",  # OpenVINO
    "unresolved custom op",  # LiteRT
    "No Op registered for",  # ONNX Runtime
    "is not a registered function/op",
    "Could not find an implementation",
)


def refused(source: ModelSource, library: str, cause: BaseException) -> ModelLoadError:
    """Return the error for a file that the library cannot load, with a way out."""
    reason = short(cause)
    if any(words in reason for words in _UNKNOWN_OPERATOR):
        hint = f"{library} does not know this operator: use a backend that does, or export without it"
    else:
        hint = (
            "the file may be damaged (edgekit verify BUNDLE) or made for another runtime or a newer version"
        )
    return ModelLoadError(f"{source}: {library} refuses the model: {reason}", hint=hint)


def cannot_import(backend: str, cause: ImportError) -> BackendUnavailableError:
    """Return the error for a library that is missing or does not fit this machine."""
    return BackendUnavailableError(
        f"backend {backend!r} cannot be imported: {short(cause)}", hint=install_hint(backend)
    )


def run_failure(source: ModelSource, library: str, cause: Exception, *, is_lost: bool) -> BackendError:
    """Return the error for a failed run; ``is_lost``: no later run can succeed."""
    message = f"{source}: {library} failed: {short(cause)}"
    if not is_lost:
        return InferenceError(message)
    return AcceleratorLostError(message, hint="another variant takes over until the accelerator is back")


def cache_folder(options: Mapping[str, Any]) -> Path | None:
    """Return the folder for compiled models, created if missing; None without the option ``cache``.

    Raises:
        StorageError: It cannot be created.
    """
    if "cache" not in options:
        return None
    folder = Path(options["cache"]).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as cause:
        raise StorageError(
            f"option 'cache': {folder} cannot be created: {cause.strerror}",
            hint="name a folder that this user may write",
        ) from cause
    return folder.resolve()


def thread_count(options: Mapping[str, Any]) -> int:
    """Return ``options["threads"]``, or one less than the cores this process may use, at least 1.

    With inference on every core, any other work makes p99 much worse.

    Raises:
        ConfigError: The option is not a number from 1 to 1024.
    """
    threads = options.get("threads", max(1, len(os.sched_getaffinity(0)) - 1))
    if not isinstance(threads, int) or isinstance(threads, bool) or not 1 <= threads <= 1024:
        raise ConfigError(f"option 'threads': want a number from 1 to 1024, got {threads!r}")
    return threads
