"""Calls the LiteRT quantizer, for integer weights, and static int8 of files not readable as a network."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any, Final, Literal

from edgekit.core.errors import BackendUnavailableError, ModelError
from edgekit_optimize.graph.tflite_schema import SIGNATURE, with_signature

Recipe = Literal["dynamic_wi8", "dynamic_wi4_dense", "static_wi8_ai8"]
"""``dynamic_wi4_dense``: dense weights have 4 bits, all others 8. Per-channel 4-bit convolutions destroy a
depthwise network (EfficientNet-Lite0: one answer in nine stays the same), and are no faster than float."""
TOOL: Final = "litert-quantizer"


def quantize_file(data: bytes, recipe: Recipe, samples: Iterable[Mapping[str, Any]] = ()) -> bytes:
    """Return a float TensorFlow Lite file quantised with one of the quantizer's recipes.

    Args:
        data: The float file.
        recipe: Name of the recipe; the static one needs ``samples``.
        samples: Inputs by the file's input names.

    Raises:
        BackendUnavailableError: ``litert-quantizer`` is not installed.
        ModelError: The quantizer rejects the file.
    """
    try:
        from litert_quantizer import qtyping, recipe_manager
        from litert_quantizer import quantizer as tool
    except ImportError as error:
        raise BackendUnavailableError(
            f"recipe {recipe} needs the package {TOOL!r} ({error})",
            hint="pip install 'edgekit-optimize[tools]'",
        ) from error
    if recipe == "static_wi8_ai8":
        data = with_signature(data)
    manager = recipe_manager.RecipeManager()
    try:
        # It prints progress, and its dependencies emit warnings.
        silence = io.StringIO()
        with (
            contextlib.redirect_stdout(silence),
            contextlib.redirect_stderr(silence),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            quantizer = tool.Quantizer(bytearray(data), _steps(qtyping.TFLOperationName, manager, recipe))
            statistics = (
                quantizer.calibrate({SIGNATURE: list(samples)}) if recipe == "static_wi8_ai8" else None
            )
            quantized = quantizer.quantize(statistics, enable_progress_report=False).quantized_model
    except Exception as error:
        raise ModelError(f"{TOOL} rejects the model ({recipe}): {error}") from error
    return bytes(quantized)


def _steps(names: Any, manager: Any, recipe: Recipe) -> Any:
    if recipe == "static_wi8_ai8":
        manager.add_static_config(
            regex=".*", operation_name=names.ALL_SUPPORTED, activation_num_bits=8, weight_num_bits=8
        )
    else:
        manager.add_dynamic_config(regex=".*", operation_name=names.ALL_SUPPORTED, num_bits=8)
    if recipe == "dynamic_wi4_dense":
        manager.add_dynamic_config(regex=".*", operation_name=names.FULLY_CONNECTED, num_bits=4)
    return manager.get_quantization_recipe()


def tool_version() -> dict[str, str]:
    """Return the quantizer's name and version, for the report."""
    return {TOOL: version(TOOL)}
