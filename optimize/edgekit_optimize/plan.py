"""The plain data that the compression kit passes around: float models, candidates' plans, makers' results.

A *root* is one float model in every format it could be converted to; a *plan* says how one candidate
is made from a root; a *maker* does it, in a child process (``run.child_job``), and returns a ``Made``.
All are structs, so that a plan can be printed, hashed for the cache and sent to a process.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import msgspec

from edgekit.core.spec import AcceleratorKind, BackendName, Pre, Precision, Requires, TensorSpec

Form = Literal["onnx", "tflite", "openvino"]
Layout = Literal["NHWC", "NCHW", ""]


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """The numerical difference between a converted model and its source, on real inputs.

    ``max_abs`` is the largest difference of any output value, ``scale`` the largest magnitude of
    the source's outputs; the check holds if ``max_abs <= limit * scale``.
    """

    conversion: str
    tool: str
    samples: int
    max_abs: float
    scale: float
    limit: float = 1e-3

    @property
    def holds(self) -> bool:
        """Whether the difference is within the limit; false for NaN."""
        return self.max_abs <= self.limit * max(self.scale, 1e-6)


class Root(msgspec.Struct, frozen=True, kw_only=True):
    """One float model with batch size 1 and static shapes, in the formats it could be converted to.

       ``onnx``, ``tflite`` and ``openvino`` (the ``.xml``) are absolute paths, empty if the conversion
       failed; ``missing`` then has the reason, by form. ``inputs`` and ``outputs`` are the tensors of the
    *canonical* form: the first of onnx, tflite, openvino that exists. ``names`` maps the
       manifest's logical tensor names to the canonical ones where they differ. ``calibration`` is an
       NPZ of one float32 array (samples, ...) for each canonical input: normalised, in the canonical
       layout. ``pre`` and ``layout`` (of the image input in the canonical form) are for makers that
       bake preprocessing in; ``image`` is the canonical name of the image input, empty for none.
    """

    id: str = "original"
    onnx: str = ""
    tflite: str = ""
    openvino: str = ""
    missing: dict[str, str] = {}
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    names: dict[str, str] = {}
    calibration: str = ""
    pre: Pre = Pre()
    image: str = ""
    layout: Layout = ""
    checks: tuple[Check, ...] = ()

    @property
    def canonical(self) -> Form:
        """The form whose tensors ``inputs`` and ``outputs`` are."""
        return "onnx" if self.onnx else "tflite" if self.tflite else "openvino"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How one candidate is made: the root, the technique and its options.

    ``id`` becomes the variant's id. ``accelerator`` other than ``cpu``: the file is for that
    accelerator; if this machine lacks it, accuracy is measured on the CPU with the same
    backend and the speed stays unknown. ``same_as`` names a plan whose files this one shares (one
    file that two backends or accelerators run).
    """

    id: str
    root: str = "original"
    technique: str
    backend: BackendName
    accelerator: AcceleratorKind = "cpu"
    precision: Precision = "fp32"
    options: dict[str, Any] = {}
    runtime: dict[str, Any] = {}
    same_as: str = ""


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """A maker's result.

    ``files`` are names in the candidate's folder; the first is the one a runtime opens. ``inputs``
    and ``outputs`` map *canonical* tensor names to the file's, where they differ. ``layout`` is that
    of image inputs in this file. ``notes`` are sentences for the report. ``integer_share``
    is the share of multiply-adds computed in integers, 0 to 1; None if the maker does not know it.
    """

    files: tuple[str, ...]
    inputs: dict[str, str] = {}
    outputs: dict[str, str] = {}
    layout: Layout = ""
    runtime: dict[str, Any] = {}
    requires: Requires = Requires()
    notes: tuple[str, ...] = ()
    tools: dict[str, str] = {}
    integer_share: float | None = None


Maker = Callable[[Root, Plan, Path], Made]
"""Writes a candidate's files into a folder. Raises EdgekitError, naming the layer and a fix."""

TECHNIQUES: dict[str, str] = {
    "litert-float": "edgekit_optimize.makers.litert:make_float",
    "litert-half": "edgekit_optimize.makers.litert:make_half",
    "litert-static": "edgekit_optimize.makers.litert:make_static",
    "litert-weights": "edgekit_optimize.makers.litert:make_weights",
    "litert-edgetpu": "edgekit_optimize.makers.litert:make_edgetpu",
    "onnx-float": "edgekit_optimize.makers.onnxruntime:make_float",
    "onnx-half": "edgekit_optimize.makers.onnxruntime:make_half",
    "onnx-static": "edgekit_optimize.makers.onnxruntime:make_static",
    "onnx-exact": "edgekit_optimize.makers.litert:make_onnx_static",
    "onnx-dynamic": "edgekit_optimize.makers.onnxruntime:make_dynamic",
    "onnx-int4": "edgekit_optimize.makers.onnxruntime:make_int4",
    "openvino-float": "edgekit_optimize.makers.openvino:make_float",
    "openvino-static": "edgekit_optimize.makers.openvino:make_static",
    "openvino-weights": "edgekit_optimize.makers.openvino:make_weights",
    "myriad": "edgekit_optimize.makers.onnxruntime:make_myriad",
}
"""Technique to its maker, as ``module:function``. The makers' options:

- ``keep_float``: names of the layers to leave in float (mixed precision), as ``sensitivity`` names
  them: the output tensor of the layer in the ONNX form. All ``-static`` makers take it.
- ``ranges``: ``minmax`` (default), ``percentile`` or ``entropy``: how activation ranges are measured.
- ``per_channel``: false gives one scale for all of a layer's weights.
- ``symmetric``: signed activations with zero point 0 (what TensorRT takes); onnx-static.
- ``fused``: constants folded and nodes fused ahead of time; onnx-float, onnx-static (the default there).
- ``half``: weights stored in 16 bits; openvino-float (by default where the precision is fp16).
- ``pixels``: preprocessing baked in, the file takes the image's bytes (UINT8, NHWC); onnx-*, openvino-*.
- ``bits``: 8 or 4; litert-weights, openvino-weights, onnx-int4.
- ``fast_bias``: false for the slow, accurate bias correction; openvino-static.
"""


def maker(technique: str) -> Maker:
    """Return the maker of a technique; its module is imported on demand."""
    module, _, function = TECHNIQUES[technique].partition(":")
    make: Maker = getattr(import_module(module), function)
    return make
