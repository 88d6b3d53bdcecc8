"""Run an ONNX model once, to check that it accepts its new batch size and to get its outputs' ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import ModelError
from edgekit_optimize.readers.onnx_faults import culprit
from edgekit_optimize.readers.tools import library, short


def prove_batch(model: Any, batches: Mapping[str, int], what: str) -> None:
    """Check that a model whose batch was fixed at a larger size runs with a batch of 1.

    Args:
        model: The canonical model.
        batches: The former batch of each input whose batch was changed; nothing is run if empty.
        what: What to call the model in the error.

    Raises:
        ModelError: It does not run, since one of its layers has the batch size built in.
    """
    if not batches:
        return
    name, size = next(iter(batches.items()))
    try:
        _answers(model)
    except Exception as cause:
        raise ModelError(
            f"{what}: input {name!r} has a fixed batch of {size}, which {culprit(model, cause)} depends on:"
            f" {short(cause)}",
            hint="export the model with a batch of 1, or with a free batch",
        ) from cause


def rank_outputs(model: Any, what: str) -> None:
    """Give each output without a shape its number of axes, in place; their sizes stay free.

    Otherwise a runtime treats such an output (of a ``Loop``, for instance) as a scalar.

    Raises:
        ModelError: The model does not run.
    """
    unknown = [value for value in model.graph.output if not value.type.tensor_type.HasField("shape")]
    if not unknown:
        return
    try:
        outputs = _answers(model)
    except Exception as cause:
        raise ModelError(
            f"{what}: output {unknown[0].name!r} has no shape, and the model cannot be run to get it:"
            f" {short(cause)}",
            hint="export the model again with the shapes of its outputs",
        ) from cause
    for value in unknown:
        shape = value.type.tensor_type.shape
        shape.SetInParent()
        for _ in outputs[value.name].shape:
            shape.dim.add()


def _answers(model: Any) -> dict[str, NDArray[Any]]:
    """Run a model with static inputs once, on zeros."""
    onnx, runtime = library("onnx"), library("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {
        value.name: np.zeros(
            [dim.dim_value for dim in value.type.tensor_type.shape.dim],
            onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type),
        )
        for value in model.graph.input
    }
    names = [value.name for value in model.graph.output]
    return dict(zip(names, session.run(names, feeds), strict=True))
