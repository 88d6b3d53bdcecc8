"""Count a torch module's parameters and multiply-adds."""

from __future__ import annotations

from typing import Any

from edgekit.core.errors import ModelError
from edgekit_optimize.shrink.users import blame, torch_module


def parameters(model: Any) -> int:
    """Return the number of weights, shared ones counted once."""
    return sum(int(values.numel()) for values in model.parameters())


def parameters_by_layer(model: Any) -> dict[str, int]:
    """Return the number of weights of every submodule, without its children's, by name."""
    return {
        name: sum(int(values.numel()) for values in module.parameters(recurse=False))
        for name, module in model.named_modules()
    }


def multiply_adds(model: Any, example: tuple[Any, ...]) -> int:
    """Return the multiply-adds of convolutions, matrix products and attention in one inference.

    Args:
        model: The module, in evaluation mode.
        example: The inputs, with the batch axis.

    Raises:
        ModelError: The model fails on the input.
    """
    return _counted(model, example)[0]


def multiply_adds_by_layer(model: Any, example: tuple[Any, ...]) -> dict[str, int]:
    """Return the multiply-adds of every submodule that has some, by its name; the root is ""."""
    return _counted(model, example)[1]


def outputs_of(model: Any, example: tuple[Any, ...]) -> Any:
    """Return a model's outputs, computed without gradients.

    Raises:
        ModelError: It fails; the message names the innermost layer that failed.
    """
    torch = torch_module()
    entered: list[str] = []
    hooks = []
    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda _m, _i, name=name: entered.append(name)))
        hooks.append(module.register_forward_hook(lambda _m, _i, _o: _left(entered)))
    try:
        with torch.no_grad():
            return model(*example)
    except Exception as cause:
        layer = entered[-1] if entered else ""
        where = f"layer {layer!r} ({type(model.get_submodule(layer)).__name__})" if layer else "the model"
        raise ModelError(
            f"{where} fails on inputs of shape {[list(tensor.shape) for tensor in example]}",
            reasons=blame(cause)[:2],
        ) from cause
    finally:
        for hook in hooks:
            hook.remove()


def _left(entered: list[str]) -> None:
    entered.pop()


def _counted(model: Any, example: tuple[Any, ...]) -> tuple[int, dict[str, int]]:
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter:
        outputs_of(model, example)
    # Its names start with the root module's class, and it counts two operations per multiply-add.
    layers: dict[str, int] = {}
    for name, counts in counter.get_flop_counts().items():
        if name != "Global":
            layers[name.partition(".")[2]] = sum(counts.values()) // 2
    return int(counter.get_total_flops()) // 2, layers
