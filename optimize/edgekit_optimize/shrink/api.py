"""Prune, distil, or train with rounding; the search calls these functions in a child process.

Each takes the user's functions by name, trains, and writes ``model.onnx`` into a folder. Results are
evaluated elsewhere, on data that is not used here.
"""

from __future__ import annotations

import copy
import time
from pathlib import Path
from typing import Any, Final

import msgspec

from edgekit.core.errors import ConfigError
from edgekit_optimize.readers.torch_source import TorchModel, export_onnx
from edgekit_optimize.shrink.count import multiply_adds, parameters
from edgekit_optimize.shrink.objective import Objective
from edgekit_optimize.shrink.pruning import Cutter
from edgekit_optimize.shrink.rounding import Grid, fold, rounded
from edgekit_optimize.shrink.train import Progress, Training, seeded, silent, training
from edgekit_optimize.shrink.users import module_built_by

_FILE: Final = "model.onnx"
_NEW_RATE: Final = 4e-3
_TUNE_RATE: Final = 2e-3
_ROUND_RATE: Final = 5e-4
_STAGES: Final = 3


class Shrunk(msgspec.Struct, frozen=True, kw_only=True):
    """The result of pruning, distillation or quantisation-aware training.

    ``onnx`` is the absolute path of the float model. ``parameters_before`` and
    ``multiply_adds_before`` are those of the original or the teacher; for a student
    trained alone, its own. ``history`` has (share of the training done, mean loss since the
    previous point). ``notes`` are sentences for the report.
    """

    id: str
    onnx: str
    parameters: int
    parameters_before: int
    multiply_adds: int
    multiply_adds_before: int
    notes: tuple[str, ...]
    seconds: float
    history: tuple[tuple[float, float], ...]


def prune(
    model: str,
    train: str,
    folder: Path,
    *,
    shape: tuple[int, ...] = (),
    ratio: float,
    epochs: int,
    seed: int,
    loss: str = "",
    temperature: float = 4.0,
    weight: float = 0.7,
    rate: float = _TUNE_RATE,
    progress: Progress | None = None,
) -> Shrunk:
    """Remove whole channels from a trained model, and train the rest with the original as teacher.

    Channels are removed in up to three steps with training in between, those first whose weights are
    smallest for the computation and storage they take. Layers keep multiples of 8 channels.

    Args:
        model: ``module:function`` that builds the trained module.
        train: ``module:function`` of the train function; see ``train``.
        folder: Where ``model.onnx`` goes.
        shape: Shape of the model's only input, with the batch axis; empty if the function that
            builds it returns an example.
        ratio: Share of the multiply-adds to remove, above 0 and below 1: 0.75 leaves a quarter.
        epochs: Epochs in total, at least 1.
        seed: The random seed.
        loss: ``module:function`` of the user's own loss; empty for cross entropy.
        temperature: Softens the teacher's outputs.
        weight: The teacher's share of the loss, 0 to 1.
        rate: Highest learning rate of the default recipe.
        progress: Called with the share that is done and a text.

    Raises:
        ModelError: The module cannot be traced, pruned that far, or exported.
        ConfigError: The user's functions fail or do not match, or the loss becomes NaN or infinite.
    """
    _check(epochs, rate)
    if not 0 < ratio < 1:
        raise ConfigError(f"ratio: want a share of multiply-adds between 0 and 1, got {ratio}")
    work = _Work(model, train, shape, progress)
    original = copy.deepcopy(work.model.module).requires_grad_(requires_grad=False)
    objective = work.objective(loss, rate, teacher=original, temperature=temperature, weight=weight)
    cutter = Cutter(work.model.module, work.model.example)
    plan = stages(epochs)
    for number, share in enumerate(plan):
        left = (1 - ratio) ** ((number + 1) / len(plan))
        cutter.cut_to(int(work.multiply_adds_before * left))
        work.train(objective, share, seed + number, rate, sum(plan[:number]) / epochs, share / epochs)
    notes = (f"channels removed in {len(plan)} steps, {epochs} epochs of training", *cutter.notes)
    return work.finish(f"pruned-{round(ratio * 100)}", folder, objective, notes)


def distill(
    teacher: str,
    student: str,
    train: str,
    folder: Path,
    *,
    shape: tuple[int, ...] = (),
    epochs: int,
    seed: int,
    temperature: float = 4.0,
    weight: float = 0.7,
    loss: str = "",
    rate: float = _NEW_RATE,
    progress: Progress | None = None,
) -> Shrunk:
    """Train a smaller model on a trained model's outputs.

    Args:
        teacher: ``module:function`` that builds the trained module.
        student: ``module:function`` that builds the module to train; its random weights depend on
            the seed.
        train: ``module:function`` of the train function; see ``train``.
        folder: Where ``model.onnx`` goes.
        shape: Shape of the only input of both, with the batch axis; empty if the student's
            function returns an example.
        epochs: Epochs, at least 1.
        seed: The random seed.
        temperature: Softens the outputs.
        weight: The teacher's share of the loss, 0 to 1.
        loss: ``module:function`` of the user's own loss; empty for cross entropy.
        rate: Highest learning rate of the default recipe.
        progress: Called with the share that is done and a text.

    Raises:
        ModelError: A module cannot be built or exported.
        ConfigError: The user's functions fail or do not match, or the loss becomes NaN or infinite.
    """
    _check(epochs, rate)
    with seeded(seed):
        work = _Work(student, train, shape, progress)
    knowing = module_built_by(teacher, "the teacher", shape)
    knowing.module.requires_grad_(requires_grad=False)
    work.remember(knowing)
    objective = work.objective(loss, rate, teacher=knowing.module, temperature=temperature, weight=weight)
    work.train(objective, epochs, seed, rate)
    note = f"{epochs} epochs on the answers of {teacher}, temperature {temperature:g}, weight {weight:g}"
    return work.finish("distilled", folder, objective, (note,))


def alone(
    student: str,
    train: str,
    folder: Path,
    *,
    shape: tuple[int, ...] = (),
    epochs: int,
    seed: int,
    loss: str = "",
    rate: float = _NEW_RATE,
    progress: Progress | None = None,
) -> Shrunk:
    """Train a smaller model without a teacher, as the baseline that distillation must beat.

    Weights, batches and schedule are the same as in ``distill`` for the same seed.

    Raises:
        ModelError: The module cannot be built or exported.
        ConfigError: The user's functions fail or do not match, or the loss becomes NaN or infinite.
    """
    _check(epochs, rate)
    with seeded(seed):
        work = _Work(student, train, shape, progress)
    objective = work.objective(loss, rate)
    work.train(objective, epochs, seed, rate)
    return work.finish("alone", folder, objective, (f"{epochs} epochs without a teacher",))


def qat(
    model: str,
    train: str,
    folder: Path,
    *,
    shape: tuple[int, ...] = (),
    epochs: int,
    seed: int,
    bits: int = 8,
    per_channel: bool = True,
    activation_bits: int = 8,
    loss: str = "",
    temperature: float = 4.0,
    weight: float = 0.7,
    rate: float = _ROUND_RATE,
    progress: Progress | None = None,
) -> Shrunk:
    """Fine-tune a trained model with integer rounding simulated, with the original as teacher.

    The last resort if post-training quantisation loses too much. The result is a float model whose
    weights are on the integer grid; any static quantiser with the same grid converts it to int8.

    Args:
        model: ``module:function`` that builds the trained module.
        train: ``module:function`` of the train function; see ``train``.
        folder: Where ``model.onnx`` goes.
        shape: Shape of the model's only input, with the batch axis; empty if the function that
            builds it returns an example.
        epochs: Epochs, at least 1.
        seed: The random seed.
        bits: Bits of a weight, 2 to 8.
        per_channel: Whether each output channel has its own scale.
        activation_bits: 8, or 0 for activations that stay float.
        loss: ``module:function`` of the user's own loss; empty for cross entropy.
        temperature: Softens the teacher's outputs.
        weight: The teacher's share of the loss, 0 to 1.
        rate: Highest learning rate of the default recipe.
        progress: Called with the share that is done and a text.

    Raises:
        ModelError: The module has nothing to quantise, or cannot be folded or exported.
        ConfigError: The user's functions fail or do not match, or the loss becomes NaN or infinite.
    """
    _check(epochs, rate)
    grid = Grid(bits, per_channel, activation_bits)
    work = _Work(model, train, shape, progress)
    original = work.model.module.requires_grad_(requires_grad=False)
    objective = work.objective(loss, rate, teacher=original, temperature=temperature, weight=weight)
    work.replace(fold(original, work.model.example).requires_grad_(requires_grad=True))
    with rounded(work.model.module, grid):
        work.train(objective, epochs, seed, rate)
    scales = "a scale for each channel" if per_channel else "one scale for each layer"
    note = f"{epochs} epochs with weights rounded to {bits} bits, {scales}"
    return work.finish(f"qat-{bits}", folder, objective, (note,))


def stages(epochs: int) -> tuple[int, ...]:
    """Return the epochs of training after each step of pruning: most of them after the last.

    >>> [stages(epochs) for epochs in (1, 3, 6, 20)]
    [(1,), (3,), (1, 1, 4), (3, 3, 14)]
    """
    if epochs < 2 * _STAGES - 1:
        return (epochs,)
    short = max(1, epochs // (2 * _STAGES))
    return (*[short] * (_STAGES - 1), epochs - short * (_STAGES - 1))


class _Work:
    """One training: the module, how to train it, when it began, and the progress callback."""

    def __init__(self, model: str, train: str, shape: tuple[int, ...], progress: Progress | None) -> None:
        self._began = time.monotonic()
        self._progress = progress or silent
        self.training: Training = training(train)
        self.model: TorchModel = module_built_by(model, "the model", shape)
        self.remember(self.model)

    def remember(self, before: TorchModel) -> None:
        """Record the sizes of the model that the result is compared with."""
        self.parameters_before = parameters(before.module)
        self.multiply_adds_before = multiply_adds(before.module, before.example)

    def replace(self, module: Any) -> None:
        self.model = TorchModel(module, self.model.names, self.model.example)

    def objective(self, loss: str, rate: float, **teaching: Any) -> Objective:
        remedy = (
            f"lower the rate (it is {rate:g})"
            if self.training.gives_batches
            else f"lower the learning rate in {self.training.entry}"
        )
        return Objective(loss, remedy=remedy, **teaching)

    def train(
        self,
        objective: Objective,
        epochs: int,
        seed: int,
        rate: float,
        start: float = 0.0,
        share: float = 1.0,
    ) -> None:
        def tell(done: float, text: str) -> None:
            self._progress(min(1.0, start + share * done), text)

        self.training.run(self.model.module, objective, epochs=epochs, seed=seed, rate=rate, progress=tell)

    def finish(self, name: str, folder: Path, objective: Objective, notes: tuple[str, ...]) -> Shrunk:
        target = (folder / _FILE).absolute()
        exported = export_onnx(self.model, target, name)
        return Shrunk(
            id=name,
            onnx=str(target),
            parameters=parameters(self.model.module),
            parameters_before=self.parameters_before,
            multiply_adds=multiply_adds(self.model.module, self.model.example),
            multiply_adds_before=self.multiply_adds_before,
            notes=(*notes, *exported),
            seconds=round(time.monotonic() - self._began, 2),
            history=objective.history(),
        )


def _check(epochs: int, rate: float) -> None:
    if epochs < 1:
        raise ConfigError(f"epochs: want at least 1, got {epochs}")
    if not 0 < rate < 10:
        raise ConfigError(f"rate: want a learning rate above 0 and below 10, got {rate}")
