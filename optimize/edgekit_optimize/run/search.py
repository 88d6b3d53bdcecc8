"""The search: make candidates, evaluate them, repair those that miss the gate, time the rest."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgekit.bench.paired_timing import rounds_in
from edgekit.core.errors import BackendUnavailableError, EdgekitError, ModelError
from edgekit_optimize.cache import Cache, code_digest, digest_of, digest_of_files, versions_of
from edgekit_optimize.data.dataset import Dataset
from edgekit_optimize.makers.sensitivity import suggest
from edgekit_optimize.metrics.table import Metric, Observed, score
from edgekit_optimize.plan import Made, Plan, Root
from edgekit_optimize.run import choice
from edgekit_optimize.run.candidate_runner import CandidateRunner, Entry, observed
from edgekit_optimize.run.child_job import DIED, run_child_job
from edgekit_optimize.run.progress import Progress
from edgekit_optimize.run.rules import mixed
from edgekit_optimize.run.timing import joined
from edgekit_optimize.study import CandidateResult, LayerSensitivity, Score, Timing

logger = logging.getLogger(__name__)

TOOLS = (
    "ai-edge-litert",
    "litert-quantizer",
    "nncf",
    "numpy",
    "onnx",
    "onnxruntime",
    "openvino",
    "torch",
    "torch-pruning",
)
_STATIC = ("litert-static", "onnx-static", "onnx-exact", "openvino-static")
_MAKERS_AT_ONCE = 2
_PROGRAMS = {"litert-edgetpu": "edgetpu_compiler"}
"""Techniques that need a program from outside Python; its path is part of their cache key."""
_SENSITIVITY_SAMPLES = 32
_SITTINGS = 3
_DIED = "free some memory, or use fewer samples (--samples)"
_FLOAT_LIMIT = (
    0.02  # as a share of the outputs' scale: beyond this the conversion to this float file is wrong
)


@dataclass
class Evaluation:
    """The evaluation set: the samples as a file and their digest, the ground truth, the metric."""

    dataset: Dataset
    samples: Path
    key: str
    metric: Metric
    sizes: Sequence[Sequence[int]] | None


@dataclass
class Search:
    """The state of a search, by candidate id.

    ``order`` has the ids as planned; ``roots`` are the float models by id; ``results`` grow with each
    stage; ``reference`` has the float model's outputs; ``sensitivity`` is by root; ``notes`` are
    sentences for the user.
    """

    runner: CandidateRunner
    cache: Cache
    progress: Progress
    evaluation: Evaluation
    roots: dict[str, Root]
    max_drop: float
    seed: int = 0
    results: dict[str, CandidateResult] = field(default_factory=dict)
    outputs: dict[str, Path] = field(default_factory=dict)
    sensitivity: dict[str, tuple[LayerSensitivity, ...]] = field(default_factory=dict)
    reference: Observed | None = None
    reference_id: str = ""
    order: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _roots_key: dict[str, str] = field(default_factory=dict)
    _made: dict[str, tuple[Path, Made]] = field(default_factory=dict)

    def candidates(self) -> tuple[CandidateResult, ...]:
        """Return every candidate's result, in the order in which they were planned."""
        return tuple(self.results[name] for name in self.order)

    # -----------------------------------------------------------------------------------------
    # Making

    def make(self, plans: Sequence[Plan]) -> list[Entry]:
        """Make candidates, two at a time; those that cannot be made get the reason in their result."""
        self.order += [plan.id for plan in plans if plan.id not in self.order]
        first = [plan for plan in plans if not plan.same_as]
        self.progress.stage("making candidates", len(first))
        results = self.runner.running.map(_MAKERS_AT_ONCE, "make", self._make, first)
        for plan, folder_and_made in zip(first, results, strict=True):
            if folder_and_made is not None:
                self._made[plan.id] = folder_and_made
        entries = []
        for plan in plans:
            source = plan.same_as or plan.id
            if source in self._made:
                entries.append(self._place(plan, *self._made[source]))
            elif plan.same_as:
                error = self.results[source].error if source in self.results else f"there is no {source!r}"
                self.results[plan.id] = CandidateResult(plan=plan, error=error)
        return entries

    def _make(self, plan: Plan) -> tuple[Path, Made] | None:
        root = self.roots[plan.root]
        how = msgspec.structs.replace(plan, id="", same_as="", runtime={})
        program = shutil.which(_PROGRAMS[plan.technique]) if plan.technique in _PROGRAMS else None
        key = digest_of(how, self.root_key(root), code_digest(), versions_of(*TOOLS), program)
        began = time.monotonic()

        def fill(folder: Path) -> dict[str, Any]:
            task = {"root": msgspec.to_builtins(root), "plan": msgspec.to_builtins(plan)}
            try:
                result = run_child_job("make", task, folder, threads=1, running=self.runner.running)
            except (ModelError, BackendUnavailableError) as error:
                if DIED in error.message:
                    raise
                result = {"refused": error.one_line()}  # cached, since the tool would refuse it again
            return result | {"seconds": time.monotonic() - began}

        try:
            folder, result, was_there = self.cache.make("make", key, fill)
            why = result.get("refused", "")
        except EdgekitError as error:
            why = error.one_line()
        finally:
            self.progress.step(plan.id)
        if why:
            self.results[plan.id] = CandidateResult(plan=plan, error=why)
            logger.debug("%s cannot be made: %s", plan.id, why)
            return None
        made = msgspec.convert(result["made"], Made)
        self.results[plan.id] = CandidateResult(
            plan=plan,
            notes=made.notes,
            tools=made.tools,
            integer_share=made.integer_share,
            make_s=result["seconds"],
            cached=was_there,
        )
        return folder, made

    def _place(self, plan: Plan, folder: Path, made: Made) -> Entry:
        entry = self.runner.add(plan, made, folder)
        known = self.results.get(plan.id) or CandidateResult(
            plan=plan, notes=made.notes, tools=made.tools, integer_share=made.integer_share, cached=True
        )
        self.results[plan.id] = msgspec.structs.replace(
            known,
            bytes=sum(file.bytes for file in entry.variant.files),
            sha256=entry.variant.files[0].sha256,
        )
        return entry

    def root_key(self, root: Root) -> str:
        """Return a digest of a float model: its files and its description."""
        if root.id not in self._roots_key:
            files = [Path(name) for name in (root.onnx, root.tflite, root.openvino, root.calibration) if name]
            if root.openvino:
                files.append(Path(root.openvino).with_suffix(".bin"))
            plain = msgspec.structs.replace(root, onnx="", tflite="", openvino="", calibration="", checks=())
            self._roots_key[root.id] = digest_of(digest_of_files(*files), plain)
        return self._roots_key[root.id]

    # -----------------------------------------------------------------------------------------
    # Evaluating

    def evaluate(self, entries: Sequence[Entry]) -> None:
        """Run candidates on the evaluation set and score them against the float model.

        In the first call, the first entry must be the float model, the reference for all others.

        Raises:
            ModelError: The float model cannot be run.
        """
        self.progress.stage("evaluating", len(entries))
        data = self.evaluation
        evaluated = self.runner.evaluate(
            entries,
            data.samples,
            data.key,
            data.sizes,
            self.progress.step,
            in_order=data.dataset.in_order,
        )
        for entry in entries:
            outputs = evaluated[entry.id]
            if isinstance(outputs, str):
                if self.reference is None:
                    raise ModelError(
                        f"the float model cannot be run: {outputs}",
                        hint=_DIED if "its process" in outputs else "",
                    )
                self._note(entry.id, error=f"cannot be run: {outputs}")
                continue
            self.outputs[entry.id] = outputs
            if self.reference is None:
                self.reference, self.reference_id = observed(outputs), entry.id
                _require_no_nan(self.reference, data.dataset.names)
            self._score(entry, observed(outputs))

    def _score(self, entry: Entry, outputs: Observed) -> None:
        assert self.reference is not None
        difference = None
        if entry.plan.root == "original" and entry.plan.precision in ("fp32", "fp16", "bf16"):
            off = relative_difference(self.reference, outputs)
            difference = off if np.isfinite(off) else None
            if entry.plan.precision == "fp32" and not off <= _FLOAT_LIMIT:
                self._note(
                    entry.id,
                    float_difference=difference,
                    error=f"the converted float model's outputs differ from the source's by {off:.3g}"
                    f" of their scale; at most {_FLOAT_LIMIT} is expected of a conversion",
                )
                return
        data = self.evaluation
        measured: Score = score(data.metric, self.reference, outputs, data.dataset, seed=self.seed)
        gate, verdict = choice.gate(measured, self.max_drop)
        self._note(entry.id, score=measured, gate=gate, verdict=verdict, float_difference=difference)

    def _note(self, name: str, **changes: Any) -> None:
        self.results[name] = msgspec.structs.replace(self.results[name], **changes)

    # -----------------------------------------------------------------------------------------
    # Repairing

    def measure_sensitivity(self, name: str) -> tuple[LayerSensitivity, ...]:
        """Measure the effect of quantising each layer of a root alone; log a warning if that fails."""
        if name in self.sensitivity:
            return self.sensitivity[name]
        root = self.roots[name]
        key = digest_of(self.root_key(root), code_digest(), versions_of(*TOOLS))
        self.progress.stage(f"measuring each layer's sensitivity ({name})")

        def fill(folder: Path) -> dict[str, Any]:
            task = {"root": msgspec.to_builtins(root), "samples": _SENSITIVITY_SAMPLES}
            return run_child_job("sensitivity", task, folder, progress=self.progress.within)

        try:
            _, result, _ = self.cache.make("sensitivity", key, fill)
            self.sensitivity[name] = tuple(msgspec.convert(result["layers"], list[LayerSensitivity]))
        except EdgekitError as error:
            logger.warning(
                "the sensitivity of the layers of %s could not be measured: %s", name, error.message
            )
            self.sensitivity[name] = ()
        return self.sensitivity[name]

    def repair(self, plans: Sequence[Plan]) -> None:
        """Make less aggressive forms of int8 candidates that miss the gate, until one per backend passes.

        First other activation ranges, then more and more of the most sensitive layers in float (an
        accuracy-aware search that stops at ``max_drop``). Plans that share a file share its repair.
        """
        static = [plan for plan in plans if plan.technique in _STATIC and not plan.options.get("pixels")]
        groups: dict[tuple[str, str, str], list[Plan]] = {}
        for plan in static:
            groups.setdefault((plan.root, plan.backend, plan.accelerator), []).append(plan)
        for members in groups.values():
            own = [p for p in members if not p.same_as and self.results[p.id].gate == "fail"]
            if own and not any(self.results[plan.id].gate == "pass" for plan in members):
                closest = min(own, key=lambda plan: (self._drop(plan.id), plan.id))
                self._climb(closest, [plan for plan in static if plan.same_as == closest.id])

    def _drop(self, name: str) -> float:
        measured = self.results[name].score
        return measured.drop if measured is not None else 1.0

    def _climb(self, plan: Plan, sharing: Sequence[Plan]) -> None:
        for step in self._steps(plan):
            shared = [
                msgspec.structs.replace(
                    other, id=step.id.replace(plan.id, other.id, 1), options=step.options, same_as=step.id
                )
                for other in sharing
            ]
            self.evaluate(self.make([step, *shared]))
            if self.results[step.id].gate == "pass":
                return

    def _steps(self, plan: Plan) -> Iterator[Plan]:
        yield _percentile(plan)
        yield from mixed(plan, suggest(self.measure_sensitivity(plan.root)))

    # -----------------------------------------------------------------------------------------
    # Timing

    def time(self, seconds: float) -> None:
        """Time every candidate that runs here, in turn."""
        entries = [entry for entry in self.runner.entries.values() if not self.results[entry.id].error]
        here = [entry for entry in entries if not self.runner.runs_here(entry)]
        self.progress.stage("timing", len(here) * rounds_in(seconds))
        for name, timing in self.runner.time(entries, seconds, self.progress.tick).items():
            if isinstance(timing, Timing):
                self._note(name, timings=(*self.results[name].timings, timing))
            else:
                self.add_note(name, f"not timed here: {timing}")

    def time_finalists(self, seconds: float, within: float) -> None:
        """Time the candidates that pass the gate and are close to their runtime's fastest again, for longer.

        For every runtime, since the best of each goes into the bundle.
        """
        finalists = contested(self.results, within)
        if len(finalists) < 2:
            return
        each = seconds / _SITTINGS
        self.progress.stage("timing the fastest again", len(finalists) * rounds_in(each) * _SITTINGS)
        entries = [self.runner.entries[name] for name in finalists]
        sittings = [self.runner.time(entries, each, self.progress.tick, n + 1) for n in range(_SITTINGS)]
        for name in finalists:
            timings = [timing for row in sittings if isinstance(timing := row[name], Timing)]
            if timings:
                self._note(name, timings=(joined(timings), *self.results[name].timings[1:]))

    def add_note(self, name: str, note: str) -> None:
        """Add a sentence to a candidate's notes."""
        self._note(name, notes=(*self.results[name].notes, note))

    def add_timings(self, timings: Mapping[str, Timing]) -> None:
        """Add timings that another machine measured."""
        for name, timing in timings.items():
            if name in self.results:
                self._note(name, timings=(*self.results[name].timings, timing))


def _require_no_nan(reference: Observed, names: Sequence[str]) -> None:
    """Check that the float model's outputs are not NaN, so that others can be compared with them.

    Raises:
        ModelError: An output is NaN for some sample.
    """
    for output, values in reference.outputs.items():
        lost = [n for n, value in enumerate(values) if np.isnan(value).any()]
        if lost:
            raise ModelError(
                f"the float model's output {output!r} is not a number for {len(lost)} of {len(values)}"
                f" samples, {names[lost[0]]!r} among them",
                hint="check that the data are scaled as the model expects: --mean, --std, --describe",
            )


def contested(results: Mapping[str, CandidateResult], within: float) -> list[str]:
    """Return the candidates that pass the gate within ``within`` times their runtime's best time."""
    times = {
        name: result.timings[0].total_ms
        for name, result in results.items()
        if result.gate == "pass" and result.timings
    }
    best: dict[tuple[str, str], float] = {}
    for name, total_ms in times.items():
        runtime = _runtime(results[name])
        best[runtime] = min(total_ms, best.get(runtime, total_ms))
    return [name for name, total_ms in times.items() if total_ms <= within * best[_runtime(results[name])]]


def _runtime(result: CandidateResult) -> tuple[str, str]:
    return result.plan.backend, result.plan.accelerator


def relative_difference(reference: Observed, outputs: Observed) -> float:
    """Return the largest difference of any output, relative to that output's largest magnitude."""
    worst = 0.0
    for name, expected in reference.outputs.items():
        values = outputs.outputs[name]
        scale = max(float(np.max(np.abs(expected), initial=0.0)), 1e-6)
        difference = float(np.max(np.abs(values.astype(np.float64) - expected), initial=0.0)) / scale
        worst = difference if not difference <= worst else worst  # so that a NaN stays
    return worst


def _percentile(plan: Plan) -> Plan:
    return msgspec.structs.replace(
        plan, id=f"{plan.id}-percentile", options=plan.options | {"ranges": "percentile"}, same_as=""
    )
