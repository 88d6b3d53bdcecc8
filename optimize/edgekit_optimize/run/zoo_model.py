"""A zoo model as the target model: ``zoo:NAME`` provides the float model and its own data.

Calibration and evaluation samples come from the recipe's hooks: different frames, windows or people of
the same pinned recordings. With ``--data`` the user's data evaluate, and the recipe still calibrates.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.base.paths import cache_dir
from edgekit.core.errors import ConfigError, UsageError
from edgekit.core.spec import TensorSpec
from edgekit.model.bundle import Bundle, open_bundle
from edgekit_optimize.cache import Cache, code_digest, digest_of, digest_of_files
from edgekit_optimize.data.dataset import Dataset, Split, read_split
from edgekit_optimize.data.listing import Prepare
from edgekit_optimize.run.request import Request
from edgekit_optimize.run.target_model import FLOAT_FIRST
from edgekit_optimize.study import DataFacts
from edgekit_optimize.zoo.build import Feeds, Kit, build, open_kit
from edgekit_optimize.zoo.recipe import VariantRecipe

PREFIX = "zoo:"


@dataclass(frozen=True, eq=False)
class ZooModel:
    """One model of the zoo: its recipe and its hooks."""

    kit: Kit

    @property
    def name(self) -> str:
        """The model's name in the zoo."""
        return self.kit.recipe.model

    def bundle(self, cache: Cache) -> Bundle:
        """Return a bundle of the float model, built on first use.

        Raises:
            LinkError: A package is not in the cache and cannot be fetched.
            HashMismatchError: A package is not the pinned one.
        """
        files = sorted(path for path in self.kit.folder.iterdir() if path.is_file())
        key = digest_of(self.name, digest_of_files(*files), code_digest())
        variants = [self._float().id]

        def fill(folder: Path) -> dict[str, str]:
            bundle = build(
                self.name, folder, variants=variants, cache=self.kit.cache, models=self.kit.folder.parent
            )
            return {"folder": bundle.name}

        home, result, _ = cache.make("zoo", key, fill)
        return open_bundle(home / result["folder"])

    def _float(self) -> VariantRecipe:
        floats = [plan for plan in self.kit.recipe.variant if plan.precision == "fp32"]
        return min(floats, key=lambda plan: FLOAT_FIRST.index(plan.backend))

    # -----------------------------------------------------------------------------------------

    def split(
        self, request: Request, inputs: Sequence[TensorSpec], prepare: Prepare | None, labels: Sequence[str]
    ) -> Split:
        """Return the calibration and evaluation sets, which share no sample.

        Args:
            request: Its ``data`` and ``calibration`` replace the recipe's samples.
            inputs: The logical inputs that are data; a recipe's samples also include states.
            prepare: The device's resizing of pictures, for the user's data.
            labels: The names of the model's classes.

        Raises:
            UsageError: ``calibration`` without ``data``.
            ConfigError: The user's data cannot be used, or the recipe lacks a hook.
            TensorError: The user's data do not match the inputs.
        """
        if request.calibration and not request.data:
            raise UsageError(
                f"--calibration without --data: {PREFIX}{self.name} has samples for both",
                hint="give --data too, or leave --calibration out",
            )
        warnings: tuple[str, ...] = ()
        if request.data:
            user_split = read_split(
                request.data,
                inputs,
                prepare=prepare,
                labels=labels,
                calibration=request.calibration_samples if request.calibration else 0,
                evaluation=request.samples,
                calibration_source=request.calibration,
                seed=request.seed,
                in_order=bool(self.kit.recipe.state),
            )
            if request.calibration:
                return user_split
            judging, warnings = user_split.evaluation, user_split.warnings
        else:
            judging = self._dataset("evaluation", request.samples, labels)
        tuning = self._dataset("calibration", request.calibration_samples, labels)
        source = f"{request.data}, calibrated by {PREFIX}{self.name}" if request.data else PREFIX + self.name
        return apart(tuning, judging, source, warnings)

    def _dataset(self, hook: str, limit: int, classes: Sequence[str]) -> Dataset:
        """Return at most ``limit`` of a hook's samples: evenly spaced, or the first of a recording."""
        make = self.kit.hook(hook)
        if make is None:
            raise ConfigError(
                f"{self.name}: its build.py has no {hook}()", hint="give data of your own with --data"
            )
        samples = make(self.kit)
        feeds, truth = samples if isinstance(samples, tuple) else (samples, None)
        in_order = bool(self.kit.recipe.state) and hook == "evaluation"
        last = min(limit, len(feeds)) if in_order else len(feeds)
        chosen = np.unique(np.linspace(0, last - 1, min(limit, last)).round().astype(int))
        shapes = {spec.name: spec.shape for spec in self.kit.recipe.inputs}
        return Dataset(
            names=tuple(f"{hook}[{n}]" for n in chosen),
            inputs=_stacked([feeds[n] for n in chosen], shapes),
            labels=None if truth is None else np.asarray(truth, np.int64)[chosen],
            classes=tuple(classes),
            in_order=in_order,
        )


def zoo_model(model: str) -> ZooModel | None:
    """Return the zoo model that MODEL names; None if it does not start with ``zoo:``.

    Raises:
        UsageError: The zoo has no such model.
    """
    if not model.startswith(PREFIX):
        return None
    return ZooModel(open_kit(model.removeprefix(PREFIX), cache=cache_dir()))


def apart(tuning: Dataset, judging: Dataset, source: str, warnings: Sequence[str] = ()) -> Split:
    """Return two sets as a split, without the calibration samples whose content is in both.

    Raises:
        ConfigError: Nothing is left to calibrate with.
    """
    common = (
        judging.inputs.keys() & tuning.inputs.keys()
    )  # a recipe's samples include states, a user's data do not
    judged, tuned = (_digests({name: data.inputs[name] for name in common}) for data in (judging, tuning))
    fresh = [number for number, digest in enumerate(tuned) if digest not in judged]
    if not fresh:
        raise ConfigError(f"{source}: every calibration sample is in the evaluation set too")
    dropped = len(tuned) - len(fresh)
    if dropped:
        warnings = (
            *warnings,
            f"{dropped} samples were left out of calibration: they are in the evaluation set too",
        )
    kept = _chosen(tuning, fresh)
    content = hashlib.sha256("\n".join([*(tuned[number] for number in fresh), "", *judged]).encode())
    content.update(b"" if judging.labels is None else judging.labels.tobytes())
    facts = DataFacts(
        source=source,
        calibration=len(kept),
        evaluation=len(judging),
        labelled=judging.labels is not None or judging.boxes is not None,
        dropped_overlap=dropped,
        sha256=content.hexdigest(),
    )
    return Split(kept, judging, facts, tuple(warnings))


def _stacked(feeds: Sequence[Feeds], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[Any]]:
    """Stack samples into arrays (n, *shape without the batch); a state has no batch."""
    arrays_by_name = {}
    for name in feeds[0]:
        arrays = [feed[name][0] if shapes[name][:1] == (1,) else feed[name] for feed in feeds]
        stacked = np.stack(arrays)
        arrays_by_name[name] = stacked if stacked.dtype == np.uint8 else stacked.astype(np.float32)
    return arrays_by_name


def _chosen(data: Dataset, numbers: Sequence[int]) -> Dataset:
    return replace(
        data,
        names=tuple(data.names[number] for number in numbers),
        inputs={name: values[list(numbers)] for name, values in data.inputs.items()},
        labels=None if data.labels is None else data.labels[list(numbers)],
    )


def _digests(inputs: Mapping[str, NDArray[Any]]) -> list[str]:
    """Return a hash of each sample's content."""
    count = len(next(iter(inputs.values())))
    hashes = [hashlib.sha256() for _ in range(count)]
    for name in sorted(inputs):
        for digest, values in zip(hashes, inputs[name], strict=True):
            digest.update(f"{name} {values.dtype} {values.shape}".encode())
            digest.update(np.ascontiguousarray(values).tobytes())
    return [digest.hexdigest() for digest in hashes]
