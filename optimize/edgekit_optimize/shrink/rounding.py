"""Quantisation-aware training: train with the rounding that integers will cause.

On every use, weights and the inputs of convolutions and dense layers are rounded to the integer grid
and back; gradients ignore the rounding. Normalisations are first folded into the layer before them, as
for integer kernels.

Source: "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", Jacob et al. 2018; straight-through estimator: Bengio, Leonard and Courville 2013.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from edgekit.core.errors import ConfigError, ModelError
from edgekit_optimize.shrink.count import outputs_of
from edgekit_optimize.shrink.objective import tensors_in
from edgekit_optimize.shrink.users import torch_module

_MEMORY: Final = 0.98
"""Decay of the moving average of activation ranges, per batch."""
_SAME: Final = 1e-3


@dataclass(frozen=True)
class Grid:
    """The grid that values are rounded to.

    ``weight_bits`` 2 to 8, symmetric, one scale for each output channel or, without ``per_channel``,
    for the whole layer; ``activation_bits`` 8, affine, one scale and zero point for each tensor, or 0 for
    activations that stay float.
    """

    weight_bits: int = 8
    per_channel: bool = True
    activation_bits: int = 8

    def __post_init__(self) -> None:
        if not 2 <= self.weight_bits <= 8 or self.activation_bits not in (0, 8):
            raise ConfigError(
                f"quantisation-aware training: want weights of 2 to 8 bits and activations of 8 bits or 0 "
                f"(float), got {self.weight_bits} and {self.activation_bits}"
            )


@contextmanager
def rounded(model: Any, grid: Grid) -> Iterator[None]:
    """Round a module's values inside ``with``; afterwards its weights are on the grid.

    A quantiser with the same grid then converts those weights without loss.
    """
    torch = torch_module()
    layers = list(_weighted(torch, model))
    if not layers:
        raise ModelError("the model has no convolution and no dense layer to quantise")
    hooks = []
    for layer in layers:
        torch.nn.utils.parametrize.register_parametrization(
            layer, "weight", _module(torch, _weight_rounder(layer, grid))
        )
        if grid.activation_bits:
            hooks.append(layer.register_forward_pre_hook(_input_rounder(torch, 2**grid.activation_bits)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for layer in layers:
            torch.nn.utils.parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)


def fold(model: Any, example: tuple[Any, ...]) -> Any:
    """Return a copy with batch normalisations folded into the preceding convolution or dense layer.

    A normalisation that does not directly follow such a layer is left unchanged.

    Args:
        model: The module, in evaluation mode; it is not changed.
        example: The inputs, with the batch axis.

    Raises:
        ModelError: The copy's outputs differ, since another layer reads a normalised layer's input.
    """
    torch = torch_module()
    folded = copy.deepcopy(model)
    for layer_name, norm_name in _pairs(torch, folded, example):
        layer, norm = folded.get_submodule(layer_name), folded.get_submodule(norm_name)
        fuse = (
            torch.nn.utils.fusion.fuse_linear_bn_eval
            if isinstance(layer, torch.nn.Linear)
            else torch.nn.utils.fusion.fuse_conv_bn_eval
        )
        _replace(folded, layer_name, fuse(layer, norm))
        _replace(folded, norm_name, torch.nn.Identity())
    _check_same(tensors_in(outputs_of(model, example)), tensors_in(outputs_of(folded, example)))
    return folded.eval()


def round_symmetric(values: Any, bits: int, axis: int | None) -> Any:
    """Return values rounded to a symmetric grid; gradients ignore the rounding.

    Args:
        values: Weights.
        bits: 2 to 8; the integers go from ``-(2**(bits-1) - 1)`` to the same above zero.
        axis: The axis with a scale for each index, or None for a single scale.
    """
    torch = torch_module()
    top = 2 ** (bits - 1) - 1
    axes = tuple(number for number in range(values.ndim) if number != axis)
    largest = values.detach().abs().amax(dim=axes, keepdim=True).clamp_min(1e-9)
    scale = largest / top
    nearest = torch.clamp(torch.round(values.detach() / scale), -top, top) * scale
    return values + (nearest - values).detach()


def round_affine(values: Any, low: float, high: float, levels: int) -> Any:
    """Return values rounded to a grid over a range that includes zero; values outside get no gradient."""
    torch = torch_module()
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max(high - low, 1e-6) / (levels - 1)
    zero = round(-low / scale)
    clipped = values.clamp(-zero * scale, (levels - 1 - zero) * scale)
    return clipped + (torch.round(clipped.detach() / scale) * scale - clipped).detach()


def _weighted(torch: Any, model: Any) -> Iterator[Any]:
    kinds = (torch.nn.modules.conv._ConvNd, torch.nn.Linear)  # noqa: SLF001 - the common base of convolutions
    return (module for module in model.modules() if isinstance(module, kinds))


def _weight_rounder(layer: Any, grid: Grid) -> Callable[[Any], Any]:
    transposed = bool(getattr(layer, "transposed", False))
    axis = (1 if transposed else 0) if grid.per_channel else None
    return lambda weight: round_symmetric(weight, grid.weight_bits, axis)


def _module(torch: Any, function: Callable[[Any], Any]) -> Any:
    """Return a module that applies a function, as parametrisations require."""

    class Rounder(torch.nn.Module):  # type: ignore[misc]
        def forward(self, weight: Any) -> Any:
            return function(weight)

    return Rounder()


def _input_rounder(torch: Any, levels: int) -> Callable[[Any, tuple[Any, ...]], tuple[Any, ...]]:
    """Return a hook that rounds a layer's input over the range seen in training."""
    seen: dict[str, float] = {}

    def round_input(layer: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        values = inputs[0]
        if layer.training or not seen:
            low, high = (float(bound) for bound in torch.aminmax(values.detach()))
            keep = _MEMORY if seen else 0.0
            seen["low"] = keep * seen.get("low", 0.0) + (1 - keep) * low
            seen["high"] = keep * seen.get("high", 0.0) + (1 - keep) * high
        return (round_affine(values, seen["low"], seen["high"], levels), *inputs[1:])

    return round_input


def _pairs(torch: Any, model: Any, example: tuple[Any, ...]) -> list[tuple[str, str]]:
    """Return the layers whose output a normalisation reads, by tracing one inference."""
    kinds = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d, torch.nn.Linear)
    norms = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)
    producers: dict[int, tuple[str, Any]] = {}
    pairs: list[tuple[str, str]] = []
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, kinds):
            hooks.append(
                # keeps the tensor alive, so that its id is not reused
                module.register_forward_hook(
                    lambda _m, _i, output, name=name: producers.__setitem__(id(output), (name, output))
                )
            )
        elif isinstance(module, norms) and module.track_running_stats:
            hooks.append(
                module.register_forward_pre_hook(
                    lambda _m, inputs, name=name: (
                        pairs.append((producers[id(inputs[0])][0], name))
                        if id(inputs[0]) in producers
                        else None
                    )
                )
            )
    outputs_of(model, example)
    for hook in hooks:
        hook.remove()
    return pairs


def _replace(model: Any, name: str, module: Any) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def _check_same(before: list[Any], after: list[Any]) -> None:
    for first, second in zip(before, after, strict=True):
        scale = max(float(first.abs().max()), 1e-6)
        if float((first - second).abs().max()) > _SAME * scale:
            raise ModelError(
                "folding the batch normalisations changes what the model computes",
                hint="the output of a normalised layer is read twice; fold it in the module itself",
            )
