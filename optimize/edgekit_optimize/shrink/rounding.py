"""Quantisation-aware training: a network learns with the roundings that integers will bring.

Weights are rounded to the grid of integers and back on every use, and so is what each convolution
or dense layer reads; gradients pass as if nothing had been rounded. Normalisations are folded into
the layer before them first, since that is what integer kernels run.

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
"""How much of a range is kept at each batch; the rest is the batch's own."""
_SAME: Final = 1e-3


@dataclass(frozen=True)
class Grid:
    """What values are rounded to.

    ``weight_bits`` 2 to 8, symmetric, one scale for each output channel or, not ``per_channel``, for
    all of a layer; ``activation_bits`` 8, affine, one scale and zero point for each tensor, or 0 for
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
    """Let a module compute with rounded values inside; leave it with weights on the grid.

    Weights that lie on the grid when it ends are what a quantiser of the same grid finds again
    without loss.
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
    """Return a copy whose batch normalisations are folded into the convolution or dense layer before.

    A normalisation that does not read such a layer's output directly stays as it is.

    Args:
        model: The module, in evaluation mode; it is not changed.
        example: The inputs, with the batch axis.

    Raises:
        ModelError: The copy computes something else: a layer's output has a second reader.
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
    """Return values rounded to a symmetric grid, with gradients as if they had not been.

    Args:
        values: Weights.
        bits: 2 to 8; the integers go from ``-(2**(bits-1) - 1)`` to the same above zero.
        axis: The axis that has a scale for each index, or None for one scale.
    """
    torch = torch_module()
    top = 2 ** (bits - 1) - 1
    axes = tuple(number for number in range(values.ndim) if number != axis)
    largest = values.detach().abs().amax(dim=axes, keepdim=True).clamp_min(1e-9)
    scale = largest / top
    nearest = torch.clamp(torch.round(values.detach() / scale), -top, top) * scale
    return values + (nearest - values).detach()


def round_affine(values: Any, low: float, high: float, levels: int) -> Any:
    """Return values rounded to a grid over a range that includes zero; outside it no gradient passes."""
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
    """Return a module that is one function, as parametrisations must be."""

    class Rounder(torch.nn.Module):  # type: ignore[misc]
        def forward(self, weight: Any) -> Any:
            return function(weight)

    return Rounder()


def _input_rounder(torch: Any, levels: int) -> Callable[[Any, tuple[Any, ...]], tuple[Any, ...]]:
    """Return a hook that rounds a layer's input over the range it has seen in training."""
    seen: dict[str, float] = {}

    def round_input(layer: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        values = inputs[0]
        if layer.training or not seen:
            low, high = (float(found) for found in torch.aminmax(values.detach()))
            keep = _MEMORY if seen else 0.0
            seen["low"] = keep * seen.get("low", 0.0) + (1 - keep) * low
            seen["high"] = keep * seen.get("high", 0.0) + (1 - keep) * high
        return (round_affine(values, seen["low"], seen["high"], levels), *inputs[1:])

    return round_input


def _pairs(torch: Any, model: Any, example: tuple[Any, ...]) -> list[tuple[str, str]]:
    """Return the layers whose output a normalisation reads, by watching one inference."""
    kinds = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d, torch.nn.Linear)
    norms = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)
    made: dict[int, tuple[str, Any]] = {}
    pairs: list[tuple[str, str]] = []
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, kinds):
            hooks.append(
                # the tensor is kept, so that its id is not given to another one
                module.register_forward_hook(
                    lambda _m, _i, output, name=name: made.__setitem__(id(output), (name, output))
                )
            )
        elif isinstance(module, norms) and module.track_running_stats:
            hooks.append(
                module.register_forward_pre_hook(
                    lambda _m, inputs, name=name: (
                        pairs.append((made[id(inputs[0])][0], name)) if id(inputs[0]) in made else None
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
    for one, other in zip(before, after, strict=True):
        scale = max(float(one.abs().max()), 1e-6)
        if float((one - other).abs().max()) > _SAME * scale:
            raise ModelError(
                "folding the batch normalisations changes what the model computes",
                hint="the output of a normalised layer is read twice; fold it in the module itself",
            )
