"""The training objective: the user's loss, combined with a teacher's outputs.

Source: "Distilling the Knowledge in a Neural Network", Hinton, Vinyals and Dean 2015.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from edgekit.core.errors import ConfigError
from edgekit_optimize.shrink.users import calling, function_named, torch_module

_POINTS = 200
"""The maximum number of points in a history."""


class Objective:
    """The loss function that edgekit passes to training code: ``loss(outputs, targets, inputs)``.

    Without a teacher it is the user's loss (by default cross entropy). With one it is
    ``(1 - weight) * own + weight * (distance from the teacher's outputs)``, or only the distance if
    ``targets`` is None. The distance is Hinton's for cross entropy (softened by the temperature). For a
    user's loss, whose outputs have unknown meaning, it is the mean squared difference divided by the
    variance of the teacher's outputs.

    It stops a diverging training with an error at the first loss that is NaN or infinite.
    """

    def __init__(
        self,
        entry: str = "",
        *,
        teacher: Any = None,
        temperature: float = 4.0,
        weight: float = 0.7,
        remedy: str = "train at a lower rate",
    ) -> None:
        if temperature <= 0 or not 0 <= weight <= 1:
            raise ConfigError(
                f"distillation: want a temperature above 0 and a weight of 0 to 1, "
                f"got {temperature} and {weight}"
            )
        self._torch = torch_module()
        self._entry = entry
        self._own = function_named(entry, "--loss") if entry else None
        self._teacher, self._temperature, self._weight = teacher, temperature, weight
        self._remedy = remedy
        self._values: list[float] = []

    def __call__(self, outputs: Any, targets: Any, inputs: Any) -> Any:
        """Return the loss of one batch as a tensor of one value.

        Args:
            outputs: The outputs of the model in training.
            targets: The expected outputs; None if unknown.
            inputs: The model's inputs: a tensor, or a tuple of them.

        Raises:
            ConfigError: The loss is NaN or infinite, or outputs and targets do not match.
        """
        loss = self._mixed(outputs, targets, inputs)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise self._diverged(value, inputs)
        self._values.append(value)
        return loss

    @property
    def steps(self) -> int:
        """The number of batches so far."""
        return len(self._values)

    def history(self) -> tuple[tuple[float, float], ...]:
        """Return (share of all steps done, mean loss since the previous point), at most 200 points."""
        size = max(1, -(-len(self._values) // _POINTS))
        chunks = [self._values[start : start + size] for start in range(0, len(self._values), size)]
        ends = [min(size * (number + 1), len(self._values)) for number in range(len(chunks))]
        return tuple(
            (round(end / len(self._values), 4), round(sum(chunk) / len(chunk), 6))
            for end, chunk in zip(ends, chunks, strict=True)
        )

    def _mixed(self, outputs: Any, targets: Any, inputs: Any) -> Any:
        if self._teacher is None:
            if targets is None:
                raise ConfigError(
                    "a batch has no targets, and there is no teacher to learn from",
                    hint="give (inputs, targets)",
                )
            return self._from_targets(outputs, targets)
        with self._torch.no_grad():
            taught = self._teacher(*as_tuple(inputs))
        taught = self._from_teacher(outputs, taught)
        if targets is None or self._weight == 1:
            return taught
        return (1 - self._weight) * self._from_targets(outputs, targets) + self._weight * taught

    def _from_targets(self, outputs: Any, targets: Any) -> Any:
        if self._own is None:
            return cross_entropy(outputs, targets)
        with calling(self._entry, "--loss"):
            loss = self._own(outputs, targets)
        if not isinstance(loss, self._torch.Tensor) or loss.numel() != 1:
            raise ConfigError(f"--loss {self._entry}: want a tensor of one value, got {_described(loss)}")
        return loss.reshape(())

    def _from_teacher(self, outputs: Any, taught: Any) -> Any:
        ours, theirs = tensors_in(outputs), tensors_in(taught)
        if [tuple(tensor.shape) for tensor in ours] != [tuple(tensor.shape) for tensor in theirs]:
            raise ConfigError(
                f"teacher and student disagree: {_described(taught)} and {_described(outputs)}",
                hint="a student must give outputs of the teacher's shapes",
            )
        if self._own is None:
            return softened(ours[0], theirs[0], self._temperature)
        return sum(_distance(tensor, other) for tensor, other in zip(ours, theirs, strict=True)) / len(ours)

    def _diverged(self, value: float, inputs: Any) -> ConfigError:
        step = len(self._values) + 1
        if not all(bool(self._torch.isfinite(tensor).all()) for tensor in as_tuple(inputs)):
            return ConfigError(
                f"the inputs of training step {step} hold NaN or infinite values",
                hint="check the data that the train function reads",
            )
        return ConfigError(f"the loss is {value} at training step {step}: stopped", hint=self._remedy)


def cross_entropy(outputs: Any, targets: Any) -> Any:
    """Return the mean cross entropy of logits.

    Args:
        outputs: Logits, shape (batch, classes, ...), float.
        targets: Class numbers, shape (batch, ...), integers; or probabilities of the outputs' shape.

    Raises:
        ConfigError: The outputs are not logits, or the targets are neither.
    """
    torch = torch_module()
    own = "give the loss to minimise: --loss module:function, a function of (outputs, targets)"
    if not isinstance(outputs, torch.Tensor) or outputs.ndim < 2 or outputs.shape[1] < 2:
        raise ConfigError(
            f"cross entropy needs logits of shape (batch, classes), got {_described(outputs)}", hint=own
        )
    if not isinstance(targets, torch.Tensor):
        raise ConfigError(f"targets: want a tensor, got {_described(targets)}", hint=own)
    _check_logits(torch, outputs)
    if not targets.is_floating_point():
        _check_classes(outputs, targets)
        return torch.nn.functional.cross_entropy(outputs, targets.long())
    if targets.shape != outputs.shape or not _are_probabilities(torch, targets):
        raise ConfigError(
            f"cross entropy needs class numbers or probabilities as targets, got {_described(targets)}",
            hint=own,
        )
    return torch.nn.functional.cross_entropy(outputs, targets)


def softened(outputs: Any, teacher: Any, temperature: float) -> Any:
    """Return how far a student's logits are from a teacher's, both softened by a temperature.

    Args:
        outputs: The student's logits, shape (batch, classes, ...).
        teacher: The teacher's, of the same shape.
        temperature: Divides both; the result is multiplied by its square, so that gradients keep
            their size.

    Source: Hinton, Vinyals and Dean 2015, section 2.
    """
    functional = torch_module().nn.functional
    ours = functional.log_softmax(outputs / temperature, dim=1)
    theirs = functional.log_softmax(teacher / temperature, dim=1)
    divergence = functional.kl_div(ours, theirs, log_target=True, reduction="none").sum(dim=1)
    return divergence.mean() * temperature**2


def tensors_in(outputs: Any) -> list[Any]:
    """Return a model's output tensors in order, from a tensor, a sequence or a mapping."""
    return list(_walk(outputs))


def as_tuple(inputs: Any) -> tuple[Any, ...]:
    """Return a model's positional arguments."""
    return tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)


def _walk(outputs: Any) -> Iterator[Any]:
    if isinstance(outputs, dict):
        outputs = tuple(outputs.values())
    if isinstance(outputs, (tuple, list)):
        for value in outputs:
            yield from _walk(value)
    elif outputs is not None:
        yield outputs


def _distance(ours: Any, theirs: Any) -> Any:
    return (ours - theirs).pow(2).mean() / theirs.var(correction=0).clamp_min(1e-12)


def _check_logits(torch: Any, outputs: Any) -> None:
    with torch.no_grad():
        if _are_probabilities(torch, outputs):
            raise ConfigError(
                "the model's outputs are probabilities; cross entropy applies its own softmax to them",
                hint="train the module without its softmax, or give --loss module:function",
            )


def _check_classes(outputs: Any, targets: Any) -> None:
    expected_shape = (outputs.shape[0], *outputs.shape[2:])
    if tuple(targets.shape) != expected_shape:
        raise ConfigError(f"targets: want class numbers of shape {expected_shape}, got {_described(targets)}")
    classes = int(outputs.shape[1])
    if targets.numel() and not (int(targets.min()) >= 0 and int(targets.max()) < classes):
        raise ConfigError(
            f"targets: want classes 0 to {classes - 1}, got {int(targets.min())} to {int(targets.max())}"
        )


def _are_probabilities(torch: Any, values: Any) -> bool:
    sums = values.sum(dim=1)
    return bool((values >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=1e-4))


def _described(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else f"{type(value).__name__} of shape {tuple(shape)}"
