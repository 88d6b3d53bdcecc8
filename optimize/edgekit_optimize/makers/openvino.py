"""Makes OpenVINO candidates (CPU, GPU, NPU): float, float16 weights, NNCF int8, integer weights.

Files keep the canonical tensor names if OpenVINO does; with option ``pixels`` the image input is uint8 and
channels-last. bfloat16 has no file format: a plan of that precision makes the float file.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Iterator
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any, Final

from edgekit.core.errors import BackendUnavailableError, ConfigError, EdgekitError, ModelError
from edgekit.core.spec import TensorSpec
from edgekit_optimize.makers import baked, graph
from edgekit_optimize.makers.samples import calibration
from edgekit_optimize.plan import Made, Plan, Root
from edgekit_optimize.quiet import root_logger_kept

_FILE: Final = "model.xml"
_SUBSET: Final = 128  # NNCF's default of 300 takes twice the time for the same accuracy here
_INSTALL: Final = "pip install 'edgekit-optimize[tools]'"
_CONVOLUTIONS: Final = ("Convolution", "GroupConvolution")
_TRANSPOSED: Final = ("ConvolutionBackpropData", "GroupConvolutionBackpropData")
_WORKING: Final = (*_CONVOLUTIONS, *_TRANSPOSED, "MatMul")


def make_float(root: Root, plan: Plan, folder: Path) -> Made:
    """Make the float IR; option ``half`` stores float16 weights (the runtime chooses its precision)."""
    openvino, _ = _tools(nncf=False)
    model = _model(openvino, root)
    half = bool(plan.options.get("half", plan.precision == "fp16"))
    notes = ("weights stored as float16",) if half else ()
    return _write(openvino, model, root, plan, folder, half=half, notes=notes)


def make_static(root: Root, plan: Plan, folder: Path) -> Made:
    """Make the int8 IR with NNCF: weights and activations, preset MIXED.

    Options: ``keep_float``, ``fast_bias`` (true by default), ``per_channel``, ``ranges``, ``pixels``.

    Raises:
        TensorError: The calibration data are unusable.
        ModelError: NNCF cannot quantise the model; the message names the layer if known.
    """
    openvino, nncf = _tools()
    model = _model(openvino, root)
    samples = calibration(root, limit=_SUBSET)
    ignored = _ignored(root, model, tuple(plan.options.get("keep_float", ())))
    with _quiet(), _wrapped(root, "quantise"):
        model = nncf.quantize(
            model,
            nncf.Dataset(samples),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(samples),
            fast_bias_correction=bool(plan.options.get("fast_bias", True)),
            ignored_scope=nncf.IgnoredScope(names=ignored) if ignored else None,
            advanced_parameters=_advanced(plan),
        )
    made = _write(openvino, model, root, plan, folder, tools=("nncf",))
    return _with_share(openvino, made, folder)


def make_weights(root: Root, plan: Plan, folder: Path) -> Made:
    """Make the IR with integer weights and float activations; option ``bits``: 8 or 4.

    Raises:
        ModelError: NNCF finds no weights to compress.
    """
    openvino, nncf = _tools()
    bits = plan.options.get("bits", 8)
    if bits not in (8, 4):
        raise ConfigError(f"option bits: want 8 or 4, got {bits!r}")
    model = _model(openvino, root)
    mode = nncf.CompressWeightsMode
    ignored = _ignored(root, model, tuple(plan.options.get("keep_float", ())))
    extra = {"ratio": 1.0, "group_size": -1, "all_layers": True} if bits == 4 else {}
    with _quiet(), _wrapped(root, "compress the weights of"):
        model = nncf.compress_weights(
            model,
            mode=mode.INT4_SYM if bits == 4 else mode.INT8_SYM,
            ignored_scope=nncf.IgnoredScope(names=ignored) if ignored else None,
            **extra,
        )
    kinds = [
        op.get_element_type().get_type_name() for op in model.get_ops() if op.get_type_name() == "Constant"
    ]
    count = {
        kind: sum(1 for k, op in zip(kinds, kinds, strict=True) if k == kind)
        for kind in ("i4", "u4", "i8", "u8")
    }
    if not any(count.values()):
        raise ModelError(
            "no layer has weights to compress: want a MatMul, Convolution or Gather with constants"
        )
    notes = tuple(f"weights of {n} layers in {kind}" for kind, n in count.items() if n)
    return _write(openvino, model, root, plan, folder, notes=notes, tools=("nncf",))


def _advanced(plan: Plan) -> Any:
    """Return NNCF's parameters for the options ``per_channel`` and ``ranges``."""
    from nncf.quantization import advanced_parameters as names

    parameters = names.AdvancedQuantizationParameters()
    if not plan.options.get("per_channel", True):
        parameters.weights_quantization_params = names.QuantizationParameters(per_channel=False)
    ranges = plan.options.get("ranges", "minmax")
    if ranges == "percentile":
        from nncf.quantization.range_estimator import RangeEstimatorParametersSet

        parameters.activations_range_estimator_params = RangeEstimatorParametersSet.MEAN_QUANTILE
    elif ranges != "minmax":
        raise ConfigError(f"option ranges: want minmax or percentile for OpenVINO, got {ranges!r}")
    return parameters


def _tools(*, nncf: bool = True) -> tuple[Any, Any]:
    # Both send usage data unless these variables are set before the import.
    os.environ.setdefault("OPENVINO_TELEMETRY", "0")
    os.environ.setdefault("NNCF_CI", "1")
    try:
        import openvino

        if not nncf:
            return openvino, None
        with _quiet():
            import nncf as compression
    except ImportError as cause:
        raise BackendUnavailableError(f"{cause.name} is not installed", hint=_INSTALL) from cause
    return openvino, compression


def _model(openvino: Any, root: Root) -> Any:
    """Return the root as an OpenVINO model, read from the best available form."""
    path = Path(root.onnx or root.openvino or root.tflite)
    if root.onnx:
        graph.read(path)  # says what is wrong with the model in its own words
    with _wrapped(root, "read"), root_logger_kept():
        model = (
            openvino.Core().read_model(str(path))
            if path.suffix == ".xml"
            else openvino.convert_model(str(path))
        )
    for port in model.inputs:
        if port.partial_shape.is_dynamic:
            raise ModelError(
                f"{path.name}: input {port.any_name!r} has the free shape {port.partial_shape}",
                hint="give the model a fixed shape of batch size 1 before compressing it",
            )
    return model


def _names(specs: tuple[TensorSpec, ...], ports: list[Any], what: str) -> dict[str, str]:
    """Return the name in the file of each canonical tensor whose name differs."""
    if len(specs) != len(ports):
        raise ModelError(f"OpenVINO finds {len(ports)} {what}s, the model has {len(specs)}")
    file_names = {}
    for position, spec in enumerate(specs):
        named = [port for port in ports if spec.name in port.names]
        port = named[0] if named else ports[position]
        name = str(port.any_name if port.names else port.node.friendly_name)
        if name != spec.name:
            file_names[spec.name] = name
    return file_names


def _ignored(root: Root, model: Any, names: tuple[str, ...]) -> list[str]:
    """Return OpenVINO's names of layers given by their ONNX output tensors."""
    if not names:
        return []
    writers = {name: port for op in model.get_ops() for port in op.outputs() for name in port.names}
    original = graph.read(Path(root.onnx)) if root.onnx else None
    ignored = []
    for name in names:
        options = graph.aliases(original, name) if original else (name,)
        ports = [writers[option] for option in options if option in writers]
        operation = _working(ports[0].get_node()) if ports else None
        if operation is None:
            layers = [fact.name for fact in graph.layers_of(original)] if original else sorted(writers)
            raise graph.unknown_layer(name, layers)
        ignored.append(str(operation.friendly_name))
    return ignored


def _working(operation: Any) -> Any | None:
    """Return the multiplying operation at or shortly before another, skipping bias and clamp."""
    for _ in range(6):
        if operation.get_type_name() in _WORKING:
            return operation
        if not operation.inputs():
            return None
        operation = operation.input(0).get_source_output().get_node()
    return None


def _write(
    openvino: Any,
    model: Any,
    root: Root,
    plan: Plan,
    folder: Path,
    *,
    half: bool = False,
    notes: tuple[str, ...] = (),
    tools: tuple[str, ...] = (),
) -> Made:
    inputs = _names(root.inputs, model.inputs, "input")
    outputs = _names(root.outputs, model.outputs, "output")
    pixels = bool(plan.options.get("pixels"))
    if pixels:
        model = _bake(openvino, model, root, inputs.get(root.image, root.image))
        size = "x".join(map(str, baked.image_shape(root)[1:3]))
        notes += (f"takes a uint8 {size} image and normalises it itself",)
    for number, operation in enumerate(model.get_ordered_ops()):
        # OpenVINO numbers them per process; reset so that the same model gives the same bytes.
        operation.set_friendly_name(f"{operation.get_type_name()}_{number}")
    with _wrapped(root, "save"):
        openvino.save_model(model, str(folder / _FILE), compress_to_fp16=half)
    return Made(
        files=(_FILE, str(Path(_FILE).with_suffix(".bin"))),
        inputs=inputs,
        outputs=outputs,
        layout="NHWC" if pixels else root.layout,
        notes=notes,
        tools={name: version(name) for name in ("openvino", *tools)},
    )


def _bake(openvino: Any, model: Any, root: Root, name: str) -> Any:
    """Return the model with a uint8 image input, (1, height, width, channels)."""
    baked.image_shape(root)
    from openvino.preprocess import PrePostProcessor

    steps = PrePostProcessor(model)
    image = steps.input(name)
    image.tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    image.model().set_layout(openvino.Layout(root.layout))
    image.preprocess().convert_element_type(openvino.Type.f32).mean(list(root.pre.mean)).scale(
        list(root.pre.std)
    )
    with _wrapped(root, "bake preprocessing into"):
        return steps.build()


def _with_share(openvino: Any, made: Made, folder: Path) -> Made:
    """Return the candidate with its integer share, as reported by the compiled model."""
    import msgspec

    core = openvino.Core()
    model = core.read_model(str(folder / _FILE))
    work = {
        str(op.friendly_name): _multiply_adds(op) for op in model.get_ops() if op.get_type_name() in _WORKING
    }
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    try:
        running = core.compile_model(model, "CPU", settings).get_runtime_model()
    except Exception as cause:  # OpenVINO raises plain RuntimeErrors
        raise ModelError(f"OpenVINO cannot compile its own file: {graph.first_line(cause)}") from cause
    integer = 0
    for op in running.get_ops():
        info = op.get_rt_info()
        if _fact(info, "runtimePrecision") in ("i8", "u8"):
            integer += sum(work.get(name, 0) for name in _origins(info))
    share = round(integer / max(sum(work.values()), 1), 6)
    notes = [f"{share:.0%} of the multiply-adds run on integers in OpenVINO on this CPU"]
    if "INT8" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        notes.append("this CPU has no fast integer arithmetic: CPUs that have it may be much faster")
    return msgspec.structs.replace(made, notes=(*made.notes, *notes), integer_share=share)


def _origins(info: Any) -> set[str]:
    """Return the original operations of a compiled one; quantising appends to their names."""
    return {name.partition("/")[0] for name in _fact(info, "originalLayersNames").split(",")}


def _fact(info: Any, name: str) -> str:
    return str(info[name].astype(str)) if name in info else ""


def _multiply_adds(operation: Any) -> int:
    weights = list(operation.input(1).get_shape())
    output, kind = prod(operation.output(0).get_shape()), operation.get_type_name()
    if kind == "MatMul":
        is_transposed = bool(operation.get_attributes().get("transpose_b"))
        return (
            int(output * weights[-1 if is_transposed else -2])
            if len(weights) > 1
            else int(output * weights[0])
        )
    skipped = 2 if kind.startswith("Group") else 1
    if kind in _TRANSPOSED:
        return int(prod(operation.input(0).get_shape()) * prod(weights[skipped:]))
    return int(output * prod(weights[skipped:]))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress NNCF's progress bars and advice on standard output."""
    logger = logging.getLogger("nncf")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(before)


@contextlib.contextmanager
def _wrapped(root: Root, doing: str) -> Iterator[None]:
    """Convert exceptions of OpenVINO and NNCF to a ``ModelError`` that names the layer if known."""
    try:
        yield
    except EdgekitError:
        raise
    except Exception as cause:  # neither library has a base class for its exceptions
        named = "the model"
        if root.onnx:
            named = graph.blamed(graph.read(Path(root.onnx)), str(cause))
        raise ModelError(
            f"OpenVINO cannot {doing} {named}: {graph.first_line(cause)}",
            hint="export the model again, replace the operator, or leave the layer in float: keep_float",
        ) from cause
