"""Read a trained model into a root: the model in every format that candidates are made from."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from numpy.typing import NDArray

from edgekit.base.files import sha256_of
from edgekit.core.errors import EdgekitError, ModelError, UsageError
from edgekit_optimize.plan import Form, Root
from edgekit_optimize.readers.compare import check_root
from edgekit_optimize.readers.forms import onnx_from_tflite, openvino_from, tflite_from_onnx
from edgekit_optimize.readers.onnx_source import canonical_onnx, onnx_files
from edgekit_optimize.readers.onnx_types import HALF_LIMIT, WIDENED
from edgekit_optimize.readers.openvino_source import MISSING, static_openvino
from edgekit_optimize.readers.record import LIMIT, Kind, Record, Step, write_record
from edgekit_optimize.readers.specs import Specs, image_input, onnx_specs, openvino_specs, tflite_specs
from edgekit_optimize.readers.tflite_source import check_tflite
from edgekit_optimize.readers.tools import library, versions

if TYPE_CHECKING:
    from edgekit_optimize.readers.torch_source import TorchModel

__all__ = ["Origin", "check_root", "kind_of", "read_source", "source_files"]

_SUFFIXES: dict[str, Kind] = {
    ".onnx": "onnx",
    ".tflite": "tflite",
    ".xml": "openvino",
    ".pt2": "torch",
    ".keras": "keras",
    ".h5": "keras",
    ".hdf5": "keras",
}
_ACCEPTED = (
    ".onnx",
    ".tflite",
    ".xml (OpenVINO IR, .bin beside it)",
    ".pt2 (torch.export)",
    "module:function (builds a torch module)",
    ".keras, .h5 or a SavedModel folder (with TensorFlow)",
)
_WEIGHTS = (
    "weights alone are not a model, and a pickled module needs its code: give module:function that builds"
    " the module and loads them; for TorchScript, one that returns (torch.jit.load(path), example_inputs)"
)
_OTHERS: dict[str, str] = {
    **dict.fromkeys((".pt", ".pth", ".ckpt", ".safetensors", ".pkl", ".pickle", ".jit"), _WEIGHTS),
    ".bin": "for OpenVINO give the .xml file; torch weights alone are not a model",
    ".pb": "give the SavedModel's folder, or convert the graph to .onnx or .tflite",
}
"""Hints for files that are often mistaken for a model, by suffix."""


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Where a root came from.

    ``reference`` is the file's path, or ``module:function``. ``sha256`` is the hash of the file, or of
    all files in order; for torch, of the exported ONNX. ``tools`` are the libraries that
    converted it, with their versions. ``notes`` has a sentence for each change.
    """

    kind: Kind
    reference: str
    sha256: str
    tools: dict[str, str]
    notes: tuple[str, ...] = ()


def kind_of(model: str) -> Kind:
    """Return the kind of model that a reference names.

    >>> kind_of("net.onnx"), kind_of("my_package.nets:build")
    ('onnx', 'torch')

    Raises:
        UsageError: It is not a supported model; the error lists those that are.
    """
    path = Path(model)
    if kind := _SUFFIXES.get(path.suffix.lower()):
        return kind
    if (path / "saved_model.pb").is_file():
        return "keras"
    module, colon, function = model.partition(":")
    if colon and function.isidentifier() and all(part.isidentifier() for part in module.split(".")):
        return "torch"
    hint = _OTHERS.get(path.suffix.lower(), "")
    raise UsageError(
        f"{model!r} is not a model that can be read; supported are", reasons=_ACCEPTED, hint=hint
    )


def source_files(path: Path) -> tuple[Path, ...]:
    """Return a model's file and its separate weight files (OpenVINO, ONNX with external data).

    Raises:
        ModelError: The file is not what its name says, or weights are missing.
    """
    suffix = path.suffix.lower()
    if suffix == ".onnx":
        return onnx_files(path)
    weights = path.with_suffix(".bin")
    return (path, weights) if suffix == ".xml" and weights.is_file() else (path,)


def read_source(
    model: str,
    folder: Path,
    *,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    sample: Mapping[str, NDArray[Any]] | None = None,
) -> tuple[Root, Origin]:
    """Read a model and convert it to every form that it can be converted to.

    Args:
        model: A path, or ``module:function``; see ``kind_of``.
        folder: Where the forms are written; created if needed.
        shapes: Complete shapes of inputs with free dimensions, by name; "" for the only input.
        sample: One real input by name, with its batch axis; its shapes are used where ``shapes`` has none.

    Returns:
        The root (batch 1, static shapes, no calibration data yet) and its origin.

    Raises:
        UsageError: The reference or a shape's input does not exist.
        ModelError: The model cannot be used; the error names the layer.
        ConfigError: There is too little memory, or a shape is not known.
        BackendUnavailableError: A library that this kind needs is not installed.
    """
    kind = kind_of(model)
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()
    maker = _Forms(folder, kind, model, dict(shapes or {}), dict(sample or {}))
    return _READERS[kind](maker)


class _Forms:
    """Collects the forms of one model during conversion."""

    def __init__(
        self,
        folder: Path,
        kind: Kind,
        reference: str,
        shapes: dict[str, tuple[int, ...]],
        sample: dict[str, NDArray[Any]],
    ) -> None:
        self.folder, self.kind, self.reference = folder, kind, reference
        self.shapes, self.sample = shapes, sample
        self.files: dict[str, Path] = {}
        self.missing: dict[str, str] = {}
        self.steps: list[Step] = []
        self.notes: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """The source file."""
        return Path(self.reference).resolve()

    @property
    def called(self) -> str:
        """The source's name in errors: its file's name, or the function that builds it."""
        return self.path.name if self.path.is_file() else self.reference

    def file(self, form: Form) -> Path:
        """Return the file that a form is written to."""
        return self.folder / {"onnx": "model.onnx", "tflite": "model.tflite", "openvino": "model.xml"}[form]

    def made(self, form: Form, conversion: str, tool: str, *, transposed: bool = False) -> None:
        """Record that a form was written."""
        self.files[form] = self.file(form)
        self.steps.append(Step(conversion=conversion, tool=tool, form=form, transposed=transposed))

    def try_openvino(self, source: Path, conversion: str, *, transposed: bool = False) -> None:
        """Convert to OpenVINO, or record why that failed."""
        try:
            openvino_from(source, self.file("openvino"))
        except EdgekitError as cause:
            self.missing["openvino"] = cause.one_line()
        else:
            self.made("openvino", conversion, _tool("openvino"), transposed=transposed)

    def try_tflite(self, conversion: str, other: Callable[[Path, str], str] | None = None) -> None:
        """Convert the canonical ONNX file to TensorFlow Lite, or record why that failed.

        ``other`` is the fallback if ``Network`` cannot express the model: it takes the file to write and
        the image's name, and returns the tool.
        """
        name, layout = image_input(onnx_specs(self.files["onnx"])[0])
        image = name if layout == "NCHW" else ""
        target = self.file("tflite")
        reasons = []
        for make in (_by_network(self.files["onnx"]), other):
            try:
                tool = make(target, image) if make is not None else ""
            except EdgekitError as cause:
                reasons.append(cause.one_line())
                target.unlink(missing_ok=True)
                continue
            if tool:
                self.made("tflite", conversion, tool, transposed=bool(image))
                return
        self.missing["tflite"] = "; ".join(reasons)

    def finish(
        self, sha256: str, tools: dict[str, str], *, source: str = "", **record: Any
    ) -> tuple[Root, Origin]:
        """Write the record and return the root and its origin; ``source`` is the model that checks run."""
        files = {form: str(path) for form, path in self.files.items()}
        inputs, outputs = self._specs()
        image, layout = image_input(inputs)
        write_record(
            self.folder,
            Record(kind=self.kind, path=source or str(self.path), steps=tuple(self.steps), **record),
        )
        root = Root(
            onnx=files.get("onnx", ""),
            tflite=files.get("tflite", ""),
            openvino=files.get("openvino", ""),
            missing=self.missing,
            inputs=inputs,
            outputs=outputs,
            image=image,
            layout=layout,
        )
        reference = self.reference if source == self.reference else str(self.path)
        origin = Origin(kind=self.kind, reference=reference, sha256=sha256, tools=tools, notes=self.notes)
        return root, origin

    def _specs(self) -> Specs:
        if "onnx" in self.files:
            return onnx_specs(self.files["onnx"])
        if "tflite" in self.files:
            return tflite_specs(self.files["tflite"])
        return openvino_specs(library("openvino").Core().read_model(str(self.files["openvino"])))


def _by_network(onnx: Path) -> Callable[[Path, str], str]:
    def make(target: Path, image: str) -> str:
        tflite_from_onnx(onnx, target, image)
        return "edgekit"

    return make


def _tool(*distributions: str) -> str:
    """Return the name and version of the first distribution that is installed."""
    installed = versions(*distributions)
    return next((f"{name} {version}" for name, version in installed.items()), distributions[0])


# ---------------------------------------------------------------------------------------------
# One reader for each kind


def _read_onnx(forms: _Forms) -> tuple[Root, Origin]:
    sha256 = sha256_of(*onnx_files(forms.path))
    fallback = {name: tuple(value.shape) for name, value in forms.sample.items()}
    forms.notes = canonical_onnx(forms.path, forms.file("onnx"), forms.shapes, fallback)
    forms.made("onnx", "ONNX to canonical ONNX", _tool("onnxruntime"))
    forms.try_openvino(forms.file("onnx"), "ONNX to OpenVINO")
    forms.try_tflite("ONNX to TensorFlow Lite")
    limit = HALF_LIMIT if WIDENED in forms.notes else LIMIT
    return forms.finish(sha256, versions("onnx", "onnxruntime", "openvino"), limit=limit)


def _read_torch(forms: _Forms) -> tuple[Root, Origin]:
    from edgekit_optimize.readers.torch_source import export_onnx, keep_state, load_torch

    model = load_torch(forms.reference, forms.shapes, forms.sample)
    exported = forms.folder / "exported.onnx"
    exporting = export_onnx(model, exported, forms.called)
    # A program still has free dimensions; a module was traced with the example's shapes.
    shapes = forms.shapes if model.program is not None else {}
    rewriting = canonical_onnx(exported, forms.file("onnx"), shapes, {}, what=forms.called)
    forms.notes = (*exporting, *rewriting)
    forms.made("onnx", "torch to ONNX", _tool("torch"))
    forms.try_openvino(forms.file("onnx"), "torch to OpenVINO, by ONNX")
    forms.try_tflite("torch to TensorFlow Lite", _by_litert_torch(model))
    is_file = model.program is not None
    return forms.finish(
        sha256_of(exported),
        versions("torch", "onnxscript", "onnx", "onnxruntime", "openvino", "litert-torch"),
        source=str(forms.path) if is_file else forms.reference,
        state="" if is_file else keep_state(model, forms.folder / "weights.pt"),
        shapes={name: tuple(value.shape) for name, value in zip(model.names, model.example, strict=True)},
    )


def _by_litert_torch(model: TorchModel) -> Callable[[Path, str], str]:
    from edgekit_optimize.readers.torch_tflite import tflite_from_torch

    def make(target: Path, image: str) -> str:
        tflite_from_torch(model, target, image)
        return _tool("litert-torch")

    return make


def _read_tflite(forms: _Forms) -> tuple[Root, Origin]:
    check_tflite(forms.path)
    _refuse_shapes(forms)
    shutil.copyfile(forms.path, forms.file("tflite"))
    forms.files["tflite"] = forms.file("tflite")
    _from_tflite(forms)
    return forms.finish(
        sha256_of(forms.path),
        versions("ai-edge-litert", "onnx", "tflite2onnx", "openvino"),
        transposed="onnx" in forms.files,
    )


def _from_tflite(forms: _Forms) -> None:
    exported = forms.folder / "exported.onnx"
    try:
        tool = onnx_from_tflite(forms.file("tflite"), exported)
        forms.notes = canonical_onnx(exported, forms.file("onnx"), {}, {}, what=forms.path.name)
    except EdgekitError as cause:
        forms.missing["onnx"] = cause.one_line()
        forms.file("onnx").unlink(missing_ok=True)
    else:
        forms.made("onnx", f"{_NAMES[forms.kind]} to ONNX", tool)
    conversion = f"{_NAMES[forms.kind]} to OpenVINO"
    forms.try_openvino(forms.file("tflite"), conversion, transposed="onnx" in forms.files)


def _read_openvino(forms: _Forms) -> tuple[Root, Origin]:
    static_openvino(forms.path, forms.file("openvino"), forms.shapes)
    forms.made("openvino", "OpenVINO to OpenVINO, static shapes", _tool("openvino"))
    forms.missing |= {"onnx": MISSING, "tflite": MISSING}
    return forms.finish(sha256_of(forms.path, forms.path.with_suffix(".bin")), versions("openvino"))


def _read_keras(forms: _Forms) -> tuple[Root, Origin]:
    from edgekit_optimize.readers.keras_source import tflite_from_keras

    if not forms.path.exists():
        raise ModelError(f"{forms.path} does not exist")
    _refuse_shapes(forms)
    tflite_from_keras(forms.path, forms.file("tflite"))
    check_tflite(forms.file("tflite"))
    _from_tflite(forms)
    has_onnx = "onnx" in forms.files
    forms.made(
        "tflite", "Keras to TensorFlow Lite", _tool("tensorflow", "tensorflow-cpu"), transposed=has_onnx
    )
    files = [forms.path] if forms.path.is_file() else sorted(f for f in forms.path.rglob("*") if f.is_file())
    return forms.finish(
        sha256_of(*files),
        versions("tensorflow", "tensorflow-cpu", "keras", "onnx", "openvino"),
        transposed=has_onnx,
    )


def _refuse_shapes(forms: _Forms) -> None:
    if forms.shapes:
        raise UsageError(
            f"the shapes of {forms.reference} are fixed in the file",
            hint="leave --shape out, or convert the model again with another input shape",
        )


_NAMES: dict[str, str] = {"tflite": "TensorFlow Lite", "keras": "Keras"}
_READERS: dict[Kind, Callable[[_Forms], tuple[Root, Origin]]] = {
    "onnx": _read_onnx,
    "torch": _read_torch,
    "tflite": _read_tflite,
    "openvino": _read_openvino,
    "keras": _read_keras,
}
