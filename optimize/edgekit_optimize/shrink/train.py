"""Train a user's torch model: the contract of ``--train``, and a default recipe.

``--train module:function`` names one of two kinds of function, distinguished by their parameters.

**Batches**, the simple way: a function of one parameter ``seed`` that returns one epoch of data.
edgekit trains with its default recipe (``fit``)::

    def batches(seed: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        order = np.random.default_rng(seed).permutation(len(IMAGES))
        for start in range(0, len(order) - 63, 64):
            chosen = order[start : start + 64]
            yield IMAGES[chosen], LABELS[chosen]

Each item is ``(inputs, targets)``: tensors or arrays, batch axis first; ``inputs`` is a tuple of them
for a model with several inputs. Every epoch has another seed, and the same seed must give the same
batches. ``targets`` are what the loss expects: class numbers for the default, cross entropy; None for
unlabelled data, which a teacher can label.

**Train**, for a model that needs its own training loop: a function whose first parameters are ``model``
and ``loss``, which trains the model in place::

    def train(model, loss, *, epochs, seed, progress) -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        for epoch in range(epochs):
            for inputs, targets in loader(seed + epoch):
                optimizer.zero_grad()
                loss(model(inputs), targets, inputs).backward()
                optimizer.step()
            progress((epoch + 1) / epochs, f"epoch {epoch + 1}")

``loss(outputs, targets, inputs)`` is edgekit's: the user's loss or cross entropy, plus the teacher's
part if there is a teacher; it raises once the loss is NaN or infinite. Pruning calls the function several
times, each time with a model that has fewer channels, so it must take the parameters from ``model`` and
keep nothing from an earlier call. Calling ``progress(share, text)`` is optional.

``--loss module:function`` names the user's loss, a function of ``(outputs, targets)`` that returns a
scalar tensor: for boxes, regression, several outputs.

torch, NumPy and Python are seeded: the same call on the same machine with the same number of threads
gives the same weights.
"""

from __future__ import annotations

import inspect
import math
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from edgekit.core.errors import ConfigError
from edgekit_optimize.shrink.objective import Objective, as_tuple
from edgekit_optimize.shrink.users import calling, function_named, torch_module

Progress = Callable[[float, str], None]
Batch = tuple[Any, Any]

_WANTED: Final = (
    "want train(model, loss, *, epochs, seed, progress), or batches(seed) that returns the (inputs, targets) "
    "of one epoch"
)
_EPOCH_SEEDS: Final = 1000
_WARM_UP: Final = 0.15
_CLIP: Final = 1.0
_WEIGHT_DECAY: Final = 0.01


def silent(_share: float, _text: str) -> None:
    """Ignore progress reports."""


@dataclass(frozen=True)
class Training:
    """A user's train function, of either kind."""

    entry: str
    function: Callable[..., Any]
    gives_batches: bool

    def run(
        self, model: Any, loss: Objective, *, epochs: int, seed: int, rate: float, progress: Progress = silent
    ) -> None:
        """Train a model in place, in training mode, and leave it in evaluation mode.

        Args:
            model: The module.
            loss: What to minimise.
            epochs: How often to go through the data, at least 1.
            seed: The random seed.
            rate: The highest learning rate of the default recipe; a user's train function has its own.
            progress: Called with the share that is done and a text.

        Raises:
            ConfigError: The function fails, returns nothing, or the loss becomes NaN or infinite.
        """
        steps = loss.steps
        with seeded(seed):
            model.train()
            if self.gives_batches:
                fit(model, loss, self.batches, epochs=epochs, seed=seed, rate=rate, progress=progress)
            else:
                with calling(self.entry, "--train"):
                    self.function(model, loss, epochs=epochs, seed=seed, progress=progress)
            model.eval()
        if loss.steps == steps:
            raise ConfigError(
                f"--train {self.entry} never called loss(outputs, targets, inputs): nothing was trained",
                hint="minimise the loss that it is given",
            )

    def batches(self, seed: int) -> Iterator[Batch]:
        """Yield one epoch as tensors.

        Raises:
            ConfigError: An item is not ``(inputs, targets)``.
        """
        with calling(self.entry, "--train"):
            items = iter(self.function(seed))
        while True:
            with calling(self.entry, "--train"):
                item = next(items, None)
            if item is None:
                return
            if not isinstance(item, (tuple, list)) or len(item) != 2:
                raise ConfigError(
                    f"--train {self.entry}: each item must be (inputs, targets), got {type(item).__name__}"
                )
            yield _tensors(item[0]), _tensors(item[1])


def training(entry: str) -> Training:
    """Return the user's train function; its parameters decide its kind.

    Args:
        entry: ``module:function``.

    Raises:
        UsageError: It is not of that form.
        ConfigError: There is no such function, or its parameters match neither kind.
    """
    function = function_named(entry, "--train")
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError) as cause:
        raise ConfigError(f"--train {entry}: its parameters cannot be inspected: {_WANTED}") from cause
    names = [parameter.name for parameter in parameters]
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    needed = [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    ]
    optional = {"epochs", "seed", "progress"}
    if names[:2] == ["model", "loss"]:
        lacking = () if open_ended else tuple(sorted(optional - set(names)))
        excess = tuple(name for name in needed if name not in {"model", "loss", *optional})
        if not lacking and not excess:
            return Training(entry, function, gives_batches=False)
    elif names[:1] == ["seed"] and needed in (["seed"], []):
        return Training(entry, function, gives_batches=True)
    raise ConfigError(f"--train {entry}: it takes ({', '.join(names)})", hint=_WANTED)


def fit(
    model: Any,
    loss: Objective,
    batches: Callable[[int], Iterable[Batch]],
    *,
    epochs: int,
    seed: int,
    rate: float,
    progress: Progress = silent,
) -> None:
    """Train a model in place: AdamW, warm-up and cosine decay, gradients clipped to norm 1.

    Args:
        model: The module, in training mode.
        loss: What to minimise.
        batches: One epoch of data for a seed.
        epochs: How often to go through the data.
        seed: The first epoch's seed is ``1000 * seed``, the second's one higher.
        rate: The highest learning rate.
        progress: Called with the share that is done and the loss of the last steps.

    Raises:
        ConfigError: An epoch has no batches.

    Source: "Decoupled Weight Decay Regularization", Loshchilov and Hutter 2019; "SGDR: Stochastic
    Gradient Descent with Warm Restarts", the same 2017.
    """
    torch = torch_module()
    optimizer = torch.optim.AdamW(_groups(model), lr=rate)
    total = _length(batches, _EPOCH_SEEDS * seed) * epochs
    step = 0
    for epoch in range(epochs):
        for inputs, targets in batches(_EPOCH_SEEDS * seed + epoch):
            for group in optimizer.param_groups:
                group["lr"] = rate * schedule(step / total)
            optimizer.zero_grad(set_to_none=True)
            batch_loss = loss(model(*as_tuple(inputs)), targets, inputs)
            batch_loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), _CLIP)
            optimizer.step()
            step += 1
            if step % 8 == 0 or step == total:
                text = f"epoch {epoch + 1} of {epochs}, loss {float(batch_loss.detach()):.4f}"
                progress(min(step / total, 1.0), text)


def schedule(share: float) -> float:
    """Return the learning rate at a share of the training, as a share of the highest.

    >>> [round(schedule(share), 2) for share in (0.0, 0.15, 0.575, 1.0)]
    [0.04, 1.0, 0.5, 0.0]
    """
    if share < _WARM_UP:
        return 0.04 + 0.96 * share / _WARM_UP
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (share - _WARM_UP) / (1 - _WARM_UP))))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed all random generators; restore their states afterwards."""
    torch = torch_module()
    mine, numpys = random.getstate(), np.random.get_state()  # noqa: NPY002 - users draw from it
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    only_warned = torch.is_deterministic_algorithms_warn_only_enabled()
    with torch.random.fork_rng(devices=[]):
        try:
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002 - the generator that a user's function may use
            torch.manual_seed(seed)
            torch.use_deterministic_algorithms(True, warn_only=True)
            yield
        finally:
            torch.use_deterministic_algorithms(was_deterministic, warn_only=only_warned)
            random.setstate(mine)
            np.random.set_state(numpys)  # noqa: NPY002 - as above


def _groups(model: Any) -> list[dict[str, Any]]:
    """Return the parameter groups; biases and normalisation scales are not decayed."""
    trained = [values for values in model.parameters() if values.requires_grad]
    if not trained:
        raise ConfigError("the model has no weights that can be trained (requires_grad is off for all)")
    return [
        {"params": [values for values in trained if values.ndim > 1], "weight_decay": _WEIGHT_DECAY},
        {"params": [values for values in trained if values.ndim <= 1], "weight_decay": 0.0},
    ]


def _length(batches: Callable[[int], Iterable[Batch]], seed: int) -> int:
    """Count an epoch's batches, which the schedule needs."""
    count = sum(1 for _ in batches(seed))
    if count == 0:
        raise ConfigError(
            "the train function returned no batches", hint="is the data smaller than one batch?"
        )
    return count


def _tensors(values: Any) -> Any:
    torch = torch_module()
    if values is None or isinstance(values, torch.Tensor):
        return values
    if isinstance(values, np.ndarray):
        return torch.from_numpy(values)
    if isinstance(values, (tuple, list)):
        return tuple(_tensors(value) for value in values)
    if isinstance(values, dict):
        return {name: _tensors(value) for name, value in values.items()}
    raise ConfigError(f"a batch has {type(values).__name__}, want tensors or NumPy arrays")
