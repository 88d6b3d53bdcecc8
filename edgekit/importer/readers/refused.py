"""Formats that no runtime of edgekit opens, each with the export command that helps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgekit.core.errors import BundleError
from edgekit.importer.model_file import FORMATS

_ONNX = "export ONNX in its place"
REFUSED: Mapping[str, tuple[str, str]] = {
    ".pt": (
        "a PyTorch checkpoint",
        "yolo export model={name} format=onnx (Ultralytics), or torch.onnx.export",
    ),
    ".pth": ("a PyTorch checkpoint", "torch.onnx.export(model, example, 'model.onnx') in its training code"),
    ".pte": ("an ExecuTorch program", f"{_ONNX}: torch.onnx.export of the same model"),
    ".torchscript": ("a TorchScript file", "yolo export format=onnx (Ultralytics), or torch.onnx.export"),
    ".param": ("an NCNN model", f"{_ONNX}: yolo export model=BEST.pt format=onnx"),
    ".mnn": ("an MNN model", f"{_ONNX}: yolo export model=BEST.pt format=onnx"),
    ".rknn": ("a Rockchip RKNN model", f"{_ONNX}: yolo export model=BEST.pt format=onnx"),
    ".mlmodel": ("a CoreML model", f"{_ONNX}: yolo export model=BEST.pt format=onnx"),
    ".mlpackage": ("a CoreML package", f"{_ONNX}: yolo export model=BEST.pt format=onnx"),
    ".eim": (
        "an Edge Impulse executable",
        "download the deployment 'TensorFlow Lite (int8 quantized)' in Edge Impulse Studio",
    ),
    ".h5": ("a Keras file", "edgekit optimize {name} --data DATA -o BUNDLE"),
    ".keras": ("a Keras file", "edgekit optimize {name} --data DATA -o BUNDLE"),
    ".pt2": ("an exported PyTorch program", "edgekit optimize {name} --data DATA -o BUNDLE"),
    ".pb": ("a TensorFlow graph", "tf.lite.TFLiteConverter.from_saved_model(FOLDER).convert()"),
    ".hef": ("a Hailo model", f"{_ONNX} of the network that it was compiled from"),
    ".blob": ("a compiled MYRIAD model", f"{_ONNX} of the network that it was compiled from"),
    ".engine": ("a TensorRT engine", "import the ONNX it was built from, then edgekit bundle add-variant"),
}
_FOLDERS = {
    "_ncnn_model": ("an NCNN model", ".param"),
    "_rknn_model": ("a Rockchip RKNN model", ".rknn"),
    "_imx_model": ("a Sony IMX500 model", ".mnn"),
    "_executorch_model": ("an ExecuTorch program", ".pte"),
    ".mlpackage": ("a CoreML package", ".mlpackage"),
}


def refuse_foreign(path: Path) -> None:
    """Raise unless a path is a file whose suffix a reader knows.

    Raises:
        BundleError: It does not exist, or is of another format; the error names it and an export command.
    """
    if path.is_dir():
        for ending, (what, row) in _FOLDERS.items():
            if path.name.endswith(ending):
                raise _refusal(path, what, REFUSED[row][1])
        raise BundleError(f"{path}: is a folder", hint="name the model file in it (.onnx, .tflite, .xml)")
    if not path.is_file():
        raise BundleError(f"{path}: there is no such model file", hint="check the path")
    suffix = path.suffix.lower()
    if suffix in REFUSED:
        raise _refusal(path, *REFUSED[suffix])
    if suffix not in FORMATS:
        raise BundleError(
            f"{path}: edgekit imports {', '.join(FORMATS)} files, not {suffix or 'a file without a suffix'}",
            hint="export the model to ONNX or TFLite",
        )


def _refusal(path: Path, what: str, command: str) -> BundleError:
    return BundleError(
        f"{path}: is {what}, which no runtime of edgekit opens", hint=command.format(name=path.name)
    )
