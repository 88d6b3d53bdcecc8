"""Adds preprocessing to an ONNX file: the model then takes uint8 NHWC images and normalises them."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgekit.core.errors import ModelError, UsageError
from edgekit.core.spec import Pre
from edgekit_optimize.makers import graph
from edgekit_optimize.plan import Root


def image_shape(root: Root) -> tuple[int, int, int, int]:
    """Return the shape of the image input as (1, height, width, channels), for either layout.

    Raises:
        UsageError: The model takes no image, or one without 1 or 3 channels.
    """
    specs = {spec.name: spec for spec in root.inputs}
    spec = specs.get(root.image)
    if spec is None or root.layout not in ("NHWC", "NCHW") or len(spec.shape) != 4:
        raise UsageError(
            "preprocessing can only be baked into a model that takes an image of known layout",
            hint="leave the option 'pixels' out",
        )
    batch, *sizes = spec.shape
    height, width, channels = sizes if root.layout == "NHWC" else (*sizes[1:], sizes[0])
    if batch != 1 or channels not in (1, 3):
        raise UsageError(f"input {spec.name!r}: want one image of 1 or 3 channels, got {spec.shape}")
    return batch, height, width, channels


def byte_steps(pre: Pre) -> tuple[float, int] | None:
    """Return scale and zero point that map bytes exactly to normalised pixels, or None.

    >>> byte_steps(Pre(mean=(127.0,), std=(128.0,)))
    (0.0078125, 127)
    >>> byte_steps(Pre(mean=(123.7, 116.3, 103.5), std=(58.4, 57.1, 57.4))) is None
    True
    """
    means, stds = set(pre.mean), set(pre.std)
    if len(means) != 1 or len(stds) != 1:
        return None
    mean, std = means.pop(), stds.pop()
    return (1.0 / std, int(mean)) if mean == int(mean) and 0 <= mean <= 255 and std > 0 else None


def bake(model: Any, root: Root) -> Any:
    """Return a model whose image input is uint8, (1, height, width, channels).

    If the normalised pixels are quantised to exactly these bytes, no arithmetic is added.

    Args:
        model: A float model, or one from ``qdq.quantise``.
        root: The model with the preprocessing and the image input.

    Raises:
        UsageError: The model takes no image.
        ModelError: ``mean`` or ``std`` has neither one value nor one for each channel.
    """
    onnx, _ = graph.tools()
    shape = image_shape(root)
    baked = onnx.ModelProto()
    baked.CopyFrom(model)
    entry = next(value for value in baked.graph.input if value.name == root.image)
    entry.CopyFrom(onnx.helper.make_tensor_value_info(root.image, onnx.TensorProto.UINT8, shape))
    source, nodes = root.image, []
    if root.layout == "NCHW":  # transpose bytes, a quarter of the size of floats
        source = f"{root.image}/turned"
        nodes.append(onnx.helper.make_node("Transpose", [root.image], [source], perm=[0, 3, 1, 2]))
    _skip_quantize(baked, root, source)
    if any(root.image in node.input for node in baked.graph.node):
        nodes += _normalise(baked, root, source, shape[3])
    for number, node in enumerate(nodes):
        node.name = f"{node.op_type}:{root.image}/{number}"
        baked.graph.node.insert(number, node)
    return baked


def _skip_quantize(model: Any, root: Root, source: str) -> None:
    """Replace the quantised image by the bytes if both are equal."""
    steps = byte_steps(root.pre)
    if steps is None:
        return
    values = graph.constants(model)
    for node in list(model.graph.node):
        if node.op_type != "QuantizeLinear" or node.input[0] != root.image or len(node.input) < 3:
            continue
        scale, zero = values.get(node.input[1]), values.get(node.input[2])
        if scale is None or zero is None or zero.dtype != np.uint8:
            continue
        if abs(float(scale) - steps[0]) <= 1e-6 * steps[0] and int(zero) == steps[1]:
            integers = node.output[0]
            model.graph.node.remove(node)
            for reader in model.graph.node:
                for index, name in enumerate(reader.input):
                    if name == integers:
                        reader.input[index] = source


def _normalise(model: Any, root: Root, source: str, channels: int) -> list[Any]:
    """Return the nodes that compute ``(byte - mean) / std``, and connect the model's nodes to them."""
    onnx, _ = graph.tools()
    pixels = f"{root.image}/pixels"
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name == root.image:
                node.input[index] = pixels
    parts = []
    for field, values in (("mean", root.pre.mean), ("std", root.pre.std)):
        if len(values) not in (1, channels):
            raise ModelError(f"preprocessing: want 1 or {channels} values of {field}, got {len(values)}")
        array = np.asarray(values, np.float32)
        array = array.reshape((1, -1, 1, 1) if root.layout == "NCHW" else (1, 1, 1, -1))
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, f"{root.image}/{field}"))
        parts.append(f"{root.image}/{field}")
    make = onnx.helper.make_node
    return [
        make("Cast", [source], [f"{root.image}/real"], to=onnx.TensorProto.FLOAT),
        make("Sub", [f"{root.image}/real", parts[0]], [f"{root.image}/centred"]),
        make("Div", [f"{root.image}/centred", parts[1]], [pixels]),
    ]
