"""Import and call the user's functions (``module:function``); attribute their errors to them."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from edgekit.core.errors import ConfigError, EdgekitError, ModelError, UsageError
from edgekit_optimize.readers.tools import library
from edgekit_optimize.readers.torch_source import TorchModel, load_torch


def torch_module() -> Any:
    """Return the ``torch`` package.

    Raises:
        BackendUnavailableError: It is not installed.
    """
    return library("torch", "torch")


def function_named(entry: str, flag: str) -> Callable[..., Any]:
    """Return the function that a flag names.

    Args:
        entry: ``module:function``; imported as usual.
        flag: The command-line flag, for the message.

    Raises:
        UsageError: It is not of that form.
        ConfigError: There is no such module or function, or importing the module fails.
    """
    module_name, colon, name = entry.partition(":")
    if not (module_name and colon and name):
        raise UsageError(f"{flag}: want module:function, got {entry!r}")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as cause:
        raise ConfigError(
            f"{flag} {entry}: there is no module {cause.name!r}",
            hint="run the command in the module's folder, or put that folder on PYTHONPATH",
        ) from cause
    except Exception as cause:
        raise ConfigError(f"{flag} {entry}: importing {module_name} fails", reasons=blame(cause)) from cause
    function = getattr(module, name, None)
    if not callable(function):
        known = sorted(key for key, value in vars(module).items() if inspect.isfunction(value))
        raise ConfigError(
            f"{flag} {entry}: {module_name} has no function {name!r}",
            hint=f"it has {', '.join(known) or 'no functions'}",
        )
    result: Callable[..., Any] = function
    return result


@contextmanager
def calling(entry: str, flag: str) -> Iterator[None]:
    """Report any exception raised inside as the user's function's; edgekit's own errors pass."""
    try:
        yield
    except (EdgekitError, MemoryError):
        raise
    except Exception as cause:
        raise ConfigError(f"{flag} {entry} fails", reasons=blame(cause)) from cause


def blame(cause: BaseException) -> tuple[str, ...]:
    """Return an exception and its innermost frames, one line each, outermost first."""
    frames = traceback.extract_tb(cause.__traceback__)[-3:]
    where = tuple(f"{frame.filename}:{frame.lineno} in {frame.name}: {frame.line}" for frame in frames)
    return (f"{type(cause).__name__}: {cause}", *where)


def module_built_by(entry: str, flag: str, shape: tuple[int, ...]) -> TorchModel:
    """Return the module that the user's function builds, in evaluation mode, with an example input.

    Args:
        entry: ``module:function``; the function returns the module, or (module, example inputs).
        flag: The command-line flag, for the message.
        shape: Shape of the only input, with the batch axis; empty to use the function's example.

    Raises:
        UsageError: It is not of that form.
        ModelError: It builds something else, or a TorchScript module, or weights that are not finite.
    """
    torch = torch_module()
    if ":" not in entry:
        raise UsageError(
            f"{flag}: want module:function, which builds a torch module that can be trained, got {entry!r}"
        )
    model = load_torch(entry, {"": shape} if shape else {}, {})
    if isinstance(model.module, torch.jit.ScriptModule):
        raise ModelError(
            f"{entry} builds a TorchScript module, whose layers cannot be changed",
            hint="name the function that builds the module before torch.jit.script or trace",
        )
    broken = [name for name, values in model.module.state_dict().items() if _is_broken(torch, values)]
    if broken:
        raise ModelError(
            f"{entry}: weights of {broken[0]!r} are NaN or infinite",
            reasons=tuple(broken[1:8]),
            hint="take a checkpoint from before the training diverged",
        )
    return model


def _is_broken(torch: Any, values: Any) -> bool:
    return bool(values.is_floating_point() and not torch.isfinite(values).all())
