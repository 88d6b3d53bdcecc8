"""The target model: the float model to optimise, and the manifest of its bundle."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from edgekit.core.errors import ModelError, UsageError
from edgekit.core.spec import Manifest, Post, Pre, State, TensorSpec, Variant
from edgekit.model.bundle import Bundle, open_bundle
from edgekit_optimize.plan import Root
from edgekit_optimize.run.request import Description, Request
from edgekit_optimize.run.states import state_pairs

FLOAT_FIRST = ("onnxruntime", "litert", "openvino")
"""Backends whose float file is taken as a bundle's float model, in order of preference."""
_CREATED_BY_CLOCK = "SOURCE_DATE_EPOCH"


class TargetModel(msgspec.Struct, frozen=True, kw_only=True):
    """The float model in all its forms, its manifest without variants, and its labels."""

    root: Root
    manifest: Manifest
    labels: tuple[str, ...]
    origin: dict[str, str]

    @property
    def takes_images(self) -> bool:
        """Whether the model's data are images, prepared by the device's preprocessing."""
        return self.manifest.task != "raw" and bool(self.root.image)


def bundle_of(model: str) -> Bundle | None:
    """Return the bundle that MODEL names; None if MODEL is a model file or a module."""
    path = Path(model)
    if path.suffix == ".ekb" or (path / "bundle.json").is_file():
        return open_bundle(path)
    return None


def float_variant(bundle: Bundle) -> Variant:
    """Return the float variant of a bundle.

    Raises:
        ModelError: It has none.
    """
    floats = [v for v in bundle.manifest.variants if v.precision == "fp32" and v.files]
    for backend in FLOAT_FIRST:
        for variant in floats:
            if variant.backend == backend:
                return variant
    raise ModelError(
        f"{bundle.source} has no float variant to start from",
        hint="give the trained model itself: ONNX, TFLite, OpenVINO IR, or module:function",
    )


def of_bundle(root: Root, bundle: Bundle, variant: Variant, request: Request) -> tuple[Root, Manifest]:
    """Return a bundle's float model as a root with logical names, and its manifest."""
    manifest = bundle.manifest
    states = state_pairs(request.states, request.description.state, manifest.inputs, manifest.outputs)
    if states and manifest.state and set(states) != set(manifest.state):
        raise UsageError(
            f"{bundle.source} already declares its states, which differ from --state",
            reasons=tuple(f"{pair.output}:{pair.input}" for pair in manifest.state),
            hint="leave --state out",
        )
    described = request.description
    names = {spec.name: variant.inputs.get(spec.name, spec.name) for spec in manifest.inputs}
    names |= {spec.name: variant.outputs.get(spec.name, spec.name) for spec in manifest.outputs}
    image = _image_input(manifest)
    layout = variant.layout or (image.layout if image else "")
    root = msgspec.structs.replace(
        root,
        names={logical: name for logical, name in names.items() if logical != name},
        pre=manifest.pre,
        image=names[image.name] if image else "",
        layout=layout,
    )
    changed = {"model": described.model or manifest.model, "version": described.version or manifest.version}
    manifest = msgspec.structs.replace(manifest, state=states or manifest.state)
    return root, msgspec.structs.replace(manifest, variants=(), golden=(), files=(), labels="", **changed)


def _image_input(manifest: Manifest) -> TensorSpec | None:
    if manifest.task == "raw" or manifest.pre.window:
        return None
    data = manifest.data_inputs()
    return data[0] if len(data) == 1 and len(data[0].shape) == 4 else None


def described(root: Root, request: Request, *, brings_pictures: bool) -> tuple[Root, Manifest]:
    """Return the root and manifest of a model file, from its tensors and the user's description.

    Args:
        root: The model.
        request: The user's description.
        brings_pictures: Whether the data are pictures; else they are the model's input tensors.

    Raises:
        UsageError: The task or the states do not fit the model's tensors.
    """
    description = request.description
    if not brings_pictures:
        if root.image and description.pre is not None and not description.pre.window:
            raise UsageError(
                f"{request.data}: --mean, --std, --resize, --crop and --color prepare pictures, but"
                " these data are not uint8 pictures: they are used as the model's input unchanged",
                hint="give pictures as uint8 from 0 to 255, (height, width, 3), or leave those flags out",
            )
        root = msgspec.structs.replace(root, image="")
    task = description.task or _task(root, request)
    if task == "raw":
        states = state_pairs(request.states, description.state, root.inputs, root.outputs)
        return _raw(root, description, states)
    if not root.image and not (description.pre and description.pre.window):
        raise UsageError(
            f"task {task!r} needs one image or sensor window, the model takes"
            f" {', '.join(f'{s.name} {list(s.shape)}' for s in root.inputs)}",
            hint="give --task raw, or describe the inputs with --describe FILE",
        )
    pre = _pre(root, description)
    inputs = description.inputs or tuple(_logical_input(spec, root, pre) for spec in root.inputs)
    scores = _scores(root, request) if task == "classify" else ""
    outputs = description.outputs or tuple(_logical_output(spec, root, scores) for spec in root.outputs)
    names = _names("inputs", inputs, root.inputs) | _names("outputs", outputs, root.outputs)
    states = _logical_states(request, names, inputs, outputs, root)
    root = msgspec.structs.replace(root, pre=pre, names=names)
    return root, _manifest(task, description, inputs, outputs, pre, description.post or _post(task), states)


def _names(what: str, described: Sequence[TensorSpec], actual: Sequence[TensorSpec]) -> dict[str, str]:
    """Return the name in the model file of each logical tensor whose names differ.

    Raises:
        UsageError: The number of tensors differs from the model's.
    """
    if len(described) != len(actual):
        raise UsageError(
            f"the description has {len(described)} {what}, the model has {len(actual)}"
            f" ({', '.join(f'{spec.name} {list(spec.shape)}' for spec in actual)})",
            hint="describe all of them, in the order of the file",
        )
    return {a.name: b.name for a, b in zip(described, actual, strict=True) if a.name != b.name}


def _logical_states(
    request: Request,
    names: Mapping[str, str],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    root: Root,
) -> tuple[State, ...]:
    """Return the states by logical name; the user may also give the names in the file."""
    state = request.description.state
    logical = {there: name for name, there in names.items()}
    try:
        return state_pairs(request.states, state, inputs, outputs)
    except UsageError:
        pairs = state_pairs(request.states, state, root.inputs, root.outputs)
    return tuple(
        State(input=logical.get(pair.input, pair.input), output=logical.get(pair.output, pair.output))
        for pair in pairs
    )


def _pre(root: Root, description: Description) -> Pre:
    """Return the preprocessing; an input with one channel is grey unless the user says otherwise."""
    pre = description.pre or Pre(mean=(0.0,), std=(255.0,))
    image = next((spec for spec in root.inputs if spec.name == root.image), None)
    if image is not None and 1 in (image.shape[1], image.shape[3]) and pre.color == "RGB":
        return msgspec.structs.replace(pre, color="GRAY")
    return pre


def _results(root: Root, request: Request) -> list[TensorSpec]:
    """Return the outputs that are not states, by their names in the description if it renames them."""
    description = request.description
    names = [spec.name for spec in description.outputs or root.outputs]
    states = {pair.output for pair in description.state}
    states |= {text.partition(":")[0] for text in request.states}
    if not description.outputs:
        states = {
            pair.output for pair in state_pairs(request.states, description.state, root.inputs, root.outputs)
        }
    both = zip(names, root.outputs, strict=False)
    return [spec for name, spec in both if not {name, spec.name} & states]


def _scores(root: Root, request: Request) -> str:
    """Return the output with a classifier's scores: the one with a value per label, else the first."""
    answers, count = _results(root, request), len(request.description.labels)
    fitting = [spec.name for spec in answers if count and spec.shape[-1] in (count, count + 1)]
    return [*fitting, *(spec.name for spec in answers), ""][0]


def _task(root: Root, request: Request) -> str:
    description = request.description
    answers = _results(root, request)
    sizes = [len([n for n in spec.shape[1:] if n != 1]) for spec in answers]
    is_scores = len(answers) == 1 and sizes[0] == 1 and answers[0].shape[-1] != 1
    return "classify" if root.image and (is_scores or description.labels) else "raw"


def _raw(root: Root, description: Description, states: tuple[State, ...]) -> tuple[Root, Manifest]:
    """Return root and manifest of a raw model, whose logical tensors are the canonical file's."""
    pre = _pre(root, description) if root.image else description.pre or Pre()
    inputs = tuple(_with_layout(spec, root) for spec in root.inputs)
    outputs = tuple(_with_layout(spec, root) for spec in root.outputs)
    root = msgspec.structs.replace(root, pre=pre)
    return root, _manifest(
        "raw", description, inputs, outputs, pre, description.post or Post(decoder="raw"), states
    )


def _with_layout(spec: TensorSpec, root: Root) -> TensorSpec:
    layout = root.layout if len(spec.shape) == 4 else ""
    return TensorSpec(name=spec.name, datatype=spec.datatype, shape=spec.shape, layout=layout)


def _logical_input(spec: TensorSpec, root: Root, pre: Pre) -> TensorSpec:
    if spec.name != root.image:
        length = pre.window + pre.context
        # the data are windows without the context that a device keeps from the previous window
        plain = tuple(pre.window if pre.window and size == length else size for size in spec.shape)
        return TensorSpec(name=spec.name, datatype="FP32", shape=plain)
    shape = spec.shape
    if root.layout == "NCHW":
        shape = (shape[0], shape[2], shape[3], shape[1])
    if (shape[3] == 1) != (pre.color == "GRAY"):
        raise UsageError(
            f"input {spec.name!r} has {shape[3]} channels, the colour is {pre.color}",
            hint="give --color GRAY for one channel, RGB or BGR for three",
        )
    return TensorSpec(name="image", datatype="UINT8", shape=shape, layout="NHWC")


def _logical_output(spec: TensorSpec, root: Root, scores: str) -> TensorSpec:
    return TensorSpec(
        name="scores" if spec.name == scores else spec.name,
        datatype="FP32",
        shape=spec.shape,
        layout=root.layout if len(spec.shape) == 4 else "",
    )


def _post(task: str) -> Post:
    if task == "classify":
        return Post(decoder="classify", score_threshold=0.05, options={"activation": "softmax"})
    raise UsageError(
        f"task {task!r} needs a decoder for its outputs",
        hint="give --describe FILE with a [post] table; docs/optimize.md has examples",
    )


def _manifest(
    task: str,
    description: Description,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    pre: Pre,
    post: Post,
    state: tuple[State, ...],
) -> Manifest:
    return Manifest(
        format=1,
        model=description.model or "model",
        version=description.version or "1.0.0",
        task=task,
        license=description.license,
        created="",
        inputs=inputs,
        outputs=outputs,
        pre=pre,
        post=post,
        state=state,
        variants=(),
    )


def source_date() -> int | None:
    """Return the build time in seconds since 1970, if the environment sets it."""
    seconds = os.environ.get(_CREATED_BY_CLOCK)
    return int(seconds) if seconds and seconds.isdigit() else None
