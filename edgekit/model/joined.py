"""An ensemble for the server: its models open in one process, where the tensors between them stay."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.core.errors import (
    AcceleratorLostError,
    BundleError,
    ConfigError,
    EdgekitError,
    InferenceError,
    TensorError,
)
from edgekit.core.spec import Prediction
from edgekit.model.ensemble import (
    Ensemble,
    Tensors,
    is_ensemble,
    read_ensemble,
    scheduling,
    served_name,
    wire,
)
from edgekit.model.exclusions import Exclusions
from edgekit.model.replicas import replicated
from edgekit.model.servable import HeldServable, offer
from edgekit.serve.ports import Offer, Servable, Together

if TYPE_CHECKING:
    from numpy.typing import NDArray

OnTry = Callable[[str, int], object]
_NO_FILES = "an ensemble takes tensors: it does not say how a file becomes them"


class EnsembleServable:
    """Several models as one; its inputs are the tensors that none of them makes."""

    platform = "ensemble"
    optional_inputs: frozenset[str] = frozenset()
    sample_files: frozenset[str] = frozenset()
    states: tuple[tuple[str, str], ...] = ()
    takes_images = keeps_state = False
    batch = 1

    def __init__(
        self,
        ensemble: Ensemble,
        names: Sequence[tuple[str, str]],
        models: Sequence[Servable],
        threads: ThreadPoolExecutor,
    ) -> None:
        self.models = tuple(models)
        self.lost = 0
        """The step whose accelerator was lost last."""
        self._names, self._threads = names, threads
        self._wiring = wire(
            ensemble, [Tensors(each.inputs, each.outputs, each.optional_inputs) for each in models]
        )
        self.inputs, self.outputs = self._wiring.inputs, self._wiring.outputs
        self.steps = tuple(scheduling(names, self._wiring))
        self.variant = "+".join(
            f"{name}:{each.variant}" for (name, _), each in zip(names, models, strict=True)
        )
        self.labels = self._labels(ensemble)
        self._took_s = [0.0] * len(models)

    def _labels(self, ensemble: Ensemble) -> tuple[str, ...]:
        """Return the classes of the one model with classes that makes an output; else none."""
        makers = [
            model.labels
            for model, gives in zip(self.models, self._wiring.gives, strict=True)
            if model.labels and not set(ensemble.outputs).isdisjoint(gives.values())
        ]
        return makers[0] if len(makers) == 1 else ()

    def infer(self, feeds: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Run each model as soon as its tensors are there."""
        tensors = dict(feeds)
        for numbers in self._wiring.rounds:
            others = [self._threads.submit(self._run, number, tensors) for number in numbers[1:]]
            try:
                made = [self._run(numbers[0], tensors)]
            finally:
                for other in others:
                    other.exception()  # none may run on when the next request begins
            for outputs in (*made, *(other.result() for other in others)):
                tensors.update(outputs)
        return {spec.name: tensors[spec.name] for spec in self.outputs}

    def _run(self, number: int, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        takes, gives = self._wiring.takes[number], self._wiring.gives[number]
        began_s = time.perf_counter()
        try:
            outputs = self.models[number].infer({name: tensors[of] for name, of in takes.items()})
        except AcceleratorLostError:
            self.lost = number
            raise
        except (TensorError, InferenceError) as error:
            raise type(error)(f"step {self._names[number][0]}: {error.message}") from error
        self._took_s[number] = time.perf_counter() - began_s
        return {gives[name]: array for name, array in outputs.items() if name in gives}

    def open_together(self) -> Together:
        """Raise: requests of an ensemble run one by one."""
        raise InferenceError("an ensemble runs no batches")

    def predict(self, image: bytes) -> Prediction:
        """Raise: tensors only."""
        raise TensorError(f"{_NO_FILES}, and got one of {len(image)} bytes")

    def predict_samples(self, data: bytes, kind: str) -> Sequence[tuple[Mapping[str, float], Prediction]]:
        """Raise: tensors only."""
        raise TensorError(f"{_NO_FILES}, and got a {kind} of {len(data)} bytes")

    def close(self) -> None:
        """Do nothing: who opened the models closes them."""

    def status(self) -> dict[str, Any]:
        """Return each step's running variant, why that one, and how long it took in the last request."""
        rows = zip(self._names, self.models, self._took_s, strict=True)
        steps = [
            {"model": name, "version": version, "infer_ms": round(took_s * 1e3, 4), **model.status()}
            for (name, version), model, took_s in rows
        ]
        return {
            "variant": self.variant,
            "why": "; ".join(f"{s['model']}: {s['why']}" for s in steps),
            "steps": steps,
        }


class HeldEnsemble:
    """An ensemble as the server's ``Held``: each of its models fails over and returns by itself.

    Raises:
        BundleError: The file is not valid, its models do not fit together, or one keeps state.
        EdgekitError: A model cannot be opened.
    """

    def __init__(self, path: Path, threads: int | None, exclusions: Exclusions, on_try: OnTry) -> None:
        self._ensemble, self._on_try = read_ensemble(path), on_try
        self._exclusions, self._changing = exclusions, threading.Lock()
        self._held: list[HeldServable] = []
        steps = self._ensemble.step
        self._names = [served_name(step.model) for step in steps]
        self._threads = ThreadPoolExecutor(len(steps), "ensemble")
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            for number, step in enumerate(steps):
                self._held.append(self._open(f"{number + 1}-{self._names[number][0]}:", step.model, threads))
            self.servable: Servable = self._joined()
            undo.pop_all()
        on_try("", 0)  # from now on nobody can say which of the models ended the process

    def _open(self, prefix: str, path: str, threads: int | None) -> HeldServable:
        own = self._exclusions.part(prefix)
        held = HeldServable(path, threads, own, lambda variant, left: self._on_try(prefix + variant, left))
        if held.servable.keeps_state:
            held.close()
            raise BundleError(
                f"{path}: a model with state cannot be a step: a request of one would not say whose"
            )
        return held

    def _joined(self) -> EnsembleServable:
        models = [held.servable for held in self._held]
        return EnsembleServable(self._ensemble, self._names, models, self._threads)

    def fail_over(self, lost: Servable, error: EdgekitError) -> Servable:
        """Have another variant of the lost model take over, and return the whole with it."""
        assert isinstance(lost, EnsembleServable)
        with self._changing:
            self._held[lost.lost].fail_over(lost.models[lost.lost], error)
            self.servable = self._joined()
            self._on_try("", 0)
            return self.servable

    def watch(self, switch: Callable[[Servable], object]) -> None:
        """Have lost variants of each model tried again."""

        def returned(_: Servable) -> None:
            with self._changing:
                self.servable = self._joined()
            switch(self.servable)

        for held in self._held:
            held.watch(returned)

    def status(self) -> dict[str, Any]:
        """Return the lost variants with the reasons, and how often one was tried again in vain."""
        rows = [held.status() for held in self._held]
        return {
            "excluded": self._exclusions.reasons(),
            "failed_returns": sum(row["failed_returns"] for row in rows),
        }

    def close(self) -> None:
        """Free the models; safe to call twice."""
        for held in self._held:
            held.close()
        self._threads.shutdown()


def offer_of(
    path: str, threads: int | None, exclusions: Exclusions, on_try: OnTry, replicas: Sequence[str] = ()
) -> Offer:
    """Return the model, or the ensemble, that can be opened at a path; arguments as ``offer`` takes them.

    ``replicas`` are what the model is to run on, all at once, as ``replicated`` takes them.

    Raises:
        BundleError: It is none.
        ConfigError: It cannot have such replicas.
    """
    if replicas and is_ensemble(path):
        raise ConfigError(
            f"{path}: an ensemble cannot have replicas", hint="serve its models by themselves, with replicas"
        )
    if replicas:
        return replicated(path, threads, exclusions, on_try, replicas)
    if not is_ensemble(path):
        return offer(path, threads, exclusions, on_try)
    model, version = served_name(path)
    return Offer(model, version, lambda: HeldEnsemble(Path(path), threads, exclusions, on_try))
