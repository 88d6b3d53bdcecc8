"""What every backend needs: datatypes, shapes, checked feeds, and a library's words made fit to show."""

from __future__ import annotations

import os
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.backends.file_facts import FileFacts, file_facts, mapped
from edgekit.core.errors import BackendError, ConfigError, ModelLoadError, StorageError, TensorError
from edgekit.core.spec import Quantization, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from edgekit.core.ports import ModelData
    from edgekit.core.spec import Datatype, Variant

DTYPES: Mapping[Datatype, np.dtype[Any]] = MappingProxyType(
    {
        "BOOL": np.dtype(np.bool_),
        "UINT8": np.dtype(np.uint8),
        "UINT16": np.dtype(np.uint16),
        "UINT32": np.dtype(np.uint32),
        "UINT64": np.dtype(np.uint64),
        "INT8": np.dtype(np.int8),
        "INT16": np.dtype(np.int16),
        "INT32": np.dtype(np.int32),
        "INT64": np.dtype(np.int64),
        "FP16": np.dtype(np.float16),
        "FP32": np.dtype(np.float32),
        "FP64": np.dtype(np.float64),
    }
)
_DATATYPES: Mapping[np.dtype[Any], Datatype] = MappingProxyType({v: k for k, v in DTYPES.items()})
_MESSAGE_LENGTH = 300
_NOISE = ("Exception from ", "Check '")


def datatype_of(dtype: Any, what: str) -> Datatype:
    """Return the Open Inference Protocol's name of a NumPy dtype.

    >>> datatype_of(np.float32, "input 'x'")
    'FP32'

    Raises:
        ModelLoadError: No tensor of edgekit has that dtype (strings, complex numbers).
    """
    try:
        return _DATATYPES[np.dtype(dtype)]
    except (KeyError, TypeError) as cause:
        raise ModelLoadError(
            f"{what} holds {dtype!r}, which edgekit cannot feed",
            hint="convert the model so that its inputs and outputs are numbers",
        ) from cause


def make_spec(
    name: str, dtype: Any, shape: Iterable[int], quantization: Quantization | None = None
) -> TensorSpec:
    """Return the spec of one tensor; ``shape`` has -1 where a dimension is free."""
    return TensorSpec(
        name=name,
        datatype=datatype_of(dtype, f"tensor {name!r}"),
        shape=tuple(int(size) for size in shape),
        quantization=quantization,
    )


def fixed_shape(name: str, shape: Sequence[int], options: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the shape one input is bound to: the model's, its free dimensions settled.

    ``options["shapes"][name]`` settles them; else a free first dimension is ``options["batch"]``, 1 unless
    stated.

    >>> fixed_shape("x", (-1, 3, 8, 8), {})
    (1, 3, 8, 8)

    Args:
        name: The input.
        shape: As the file has it, -1 where free.
        options: The backend's options.

    Raises:
        ModelLoadError: Another dimension is free and no option settles it, the option's shape does not
            fit the model, or the file was built for another batch than the option's.
    """
    wanted = options.get("shapes", {}).get(name)
    if wanted is not None:
        fits = len(wanted) == len(shape) and all(
            size > 0 and free in (-1, size) for size, free in zip(wanted, shape, strict=True)
        )
        if not fits:
            raise ModelLoadError(
                f"input {name!r} has shape {tuple(shape)}, options.shapes wants {tuple(wanted)}"
            )
        return tuple(int(size) for size in wanted)
    if any(size < 0 for size in shape[1:]):
        raise ModelLoadError(
            f"input {name!r} has free dimensions beside the batch: {tuple(shape)}",
            hint=f"state the shape to run: options.shapes = {{{name!r} = [...]}}",
        )
    batch = options.get("batch", 1)
    if batch > 1 and shape and shape[0] not in (-1, batch):
        raise ModelLoadError(
            f"input {name!r} has shape {tuple(shape)} in the file, options.batch wants {batch} in front",
            hint="open it at the file's own batch, or export the model with a free batch",
        )
    return tuple(batch if size < 0 else int(size) for size in shape)


def unique_names(names: Iterable[str], fallback: str) -> list[str]:
    """Return names for tensors, none empty and none twice.

    >>> unique_names(["a", "", "a"], "output")
    ['a', 'output_1', 'output_2']
    """
    unique: list[str] = []
    for index, name in enumerate(names):
        unique.append(name if name and name not in unique else f"{fallback}_{index}")
    return unique


def copy_feeds(
    inputs: tuple[TensorSpec, ...],
    view: Callable[[str], NDArray[Any]],
    feeds: Mapping[str, NDArray[Any]],
) -> None:
    """Copy the feeds into the input views.

    Raises:
        TensorError: A feed is missing, unknown, or of another shape or dtype.
    """
    if len(feeds) != len(inputs) or any(spec.name not in feeds for spec in inputs):
        raise _names_error(inputs, feeds)
    for spec in inputs:
        feed = feeds[spec.name]
        target = view(spec.name)
        found = getattr(feed, "shape", None)
        if found != target.shape or feed.dtype != target.dtype:
            raise TensorError(
                f"input {spec.name!r}: want {spec.datatype} {list(target.shape)}, "
                f"got {getattr(feed, 'dtype', type(feed).__name__)} {list(found or ())}",
                hint="convert the array, or state options.shapes where a dimension is free",
            )
        target[...] = feed


def _names_error(inputs: tuple[TensorSpec, ...], feeds: Mapping[str, Any]) -> TensorError:
    names = [spec.name for spec in inputs]
    missing = [repr(name) for name in names if name not in feeds]
    unknown = [repr(name) for name in feeds if name not in names]
    reasons = [f"missing: {', '.join(missing)}"] if missing else []
    if unknown:
        reasons.append(f"unknown: {', '.join(unknown)}")
    return TensorError(
        f"the feeds do not fit the model's {len(names)} inputs",
        reasons=tuple(reasons),
        hint=f"feed exactly: {', '.join(map(repr, names))}",
    )


def no_input(name: str, inputs: tuple[TensorSpec, ...]) -> TensorError:
    """Return the error for a view of an input that the model does not have."""
    return TensorError(
        f"the model has no input {name!r}", hint=f"one of: {', '.join(repr(spec.name) for spec in inputs)}"
    )


def closed(what: str) -> BackendError:
    """Return the error for a use after ``close``."""
    return BackendError(f"{what} is closed", hint="open the model again")


def short(error: BaseException | str) -> str:
    r"""Return a library's message on one line, at most 300 characters, without its stack of files.

    >>> short("Exception from a.cpp:84:\nUnable to read   the model")
    'Unable to read the model'
    """
    lines = [line.strip() for line in str(error).splitlines()]
    told = " ".join(" ".join(line for line in lines if not line.startswith(_NOISE)).split())
    told = told or " ".join(" ".join(lines).split()) or type(error).__name__
    return told if len(told) <= _MESSAGE_LENGTH else f"{told[:190]} … {told[-107:]}"


class ModelSource:
    """A model to open: a file, or the bytes of a variant's files in memory; ``str`` names it in errors.

    Raises:
        ModelLoadError: The file is not there, or there are no bytes.
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
        """Return what the file says of its own quantisation.

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


def refused(source: ModelSource, library: str, cause: BaseException) -> ModelLoadError:
    """Return the error for a file that the library cannot load, with a way out."""
    return ModelLoadError(
        f"{source}: {library} refuses the model: {short(cause)}",
        hint="the file may be damaged (edgekit verify BUNDLE) or made for another runtime or a newer version",
    )


def cache_folder(options: Mapping[str, Any]) -> Path | None:
    """Return the folder for compiled models, made where it is missing, or None without one.

    Raises:
        StorageError: It cannot be made.
    """
    if "cache" not in options:
        return None
    folder = Path(options["cache"]).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as cause:
        raise StorageError(
            f"option 'cache': {folder} cannot be made: {cause.strerror}",
            hint="name a folder that this user may write",
        ) from cause
    return folder.resolve()


def thread_count(options: Mapping[str, Any]) -> int:
    """Return ``options["threads"]``, or one less than the cores this process may use, at least 1.

    With every core taken by inference the slowest percent of calls gets much slower, as any other
    work stalls the pool.

    Raises:
        ConfigError: The option is not a positive integer.
    """
    threads = options.get("threads", max(1, len(os.sched_getaffinity(0)) - 1))
    if not isinstance(threads, int) or isinstance(threads, bool) or not 1 <= threads <= 1024:
        raise ConfigError(f"option 'threads': want a number from 1 to 1024, got {threads!r}")
    return threads
