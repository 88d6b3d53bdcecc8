"""Evaluate and time candidates in child processes, from one working bundle.

Candidates run exactly as on a device: the same predictor, backends and options. A candidate for an
accelerator that this machine lacks is evaluated on the CPU with the same kind of file and not timed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgekit.backends import backend_version
from edgekit.bench.variant_process import VariantProcess
from edgekit.core.errors import BackendError
from edgekit.core.select import reasons_against
from edgekit.core.spec import Facts, Item, Manifest, Profile, Variant, VariantFile
from edgekit.model.bundle import Bundle, open_bundle
from edgekit_optimize.cache import Cache, digest_of, digest_of_module
from edgekit_optimize.metrics.table import Observed
from edgekit_optimize.plan import Made, Plan
from edgekit_optimize.run.child_job import Running
from edgekit_optimize.run.timing import time_variants
from edgekit_optimize.study import Timing
from edgekit_optimize.zoo.build import seal

_STAND_IN = {"foreign": "onnxruntime"}
_ANSWERED_BY = (
    "edgekit.bench.variant_child",
    "edgekit.model",
    "edgekit.backends",
    "edgekit.pipeline",
    "edgekit.core",
)
_TIMED_BY = (*_ANSWERED_BY, "edgekit.bench.paired_timing", "edgekit_optimize.run.timing")
"""Modules that outputs and times depend on: their code is part of the cache keys."""


@dataclass(frozen=True)
class Entry:
    """A candidate whose files exist: its plan, the maker's result, and its variant for the bundle."""

    plan: Plan
    made: Made
    variant: Variant

    @property
    def id(self) -> str:
        """The variant's id."""
        return self.variant.id

    @property
    def key(self) -> str:
        """A digest of everything that its outputs depend on."""
        variant = self.variant
        files = [file.sha256 for file in variant.files]
        how = [variant.inputs, variant.outputs, variant.layout, variant.options]
        return digest_of(files, variant.backend, variant.accelerator, variant.precision, how)


class CandidateRunner:
    """Runs candidates of one model.

    Args:
        folder: The working bundle's folder; created here.
        manifest: The bundle's manifest without variants.
        labels: One for each class.
        facts: The facts of this machine.
        profile: This machine's profile.
        threads: CPU threads for every runtime.
        cache: Holds earlier evaluations and timings.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        labels: Sequence[str],
        facts: Facts,
        profile: Profile,
        threads: int,
        cache: Cache,
    ) -> None:
        folder.mkdir(parents=True)
        if labels:
            (folder / "labels.txt").write_text("\n".join(labels) + "\n", encoding="utf-8")
            manifest = msgspec.structs.replace(manifest, labels="labels.txt")
        self.folder, self.manifest, self.entries = folder, manifest, dict[str, Entry]()
        self._facts, self.profile, self._threads, self._cache = facts, profile, threads, cache
        self.running = Running()
        self._machine = digest_of(facts.cpu, facts.cores, facts.arch, facts.cpu_features, profile)
        self._labels = tuple(labels)

    def describe(self, manifest: Manifest) -> None:
        """Replace the manifest, once more is known about the model."""
        self.manifest = msgspec.structs.replace(manifest, labels=self.manifest.labels)

    def add(self, plan: Plan, made: Made, folder: Path) -> Entry:
        """Add a candidate's files to the working bundle and return its entry; shared files are added once."""
        home = Path("variants") / (plan.same_as or plan.id)
        (self.folder / home).mkdir(parents=True, exist_ok=True)
        files = []
        for name in made.files:
            target = self.folder / home / name
            if not target.exists():
                _link(folder / name, target)
            files.append(VariantFile(path=(home / name).as_posix(), bytes=0, sha256="0" * 64))
        variant = Variant(
            id=plan.id,
            backend=plan.backend,
            accelerator=plan.accelerator,
            precision=plan.precision,
            files=tuple(files),
            requires=made.requires,
            inputs=self._mapping(made.inputs, (spec.name for spec in self.manifest.inputs)),
            outputs=self._mapping(made.outputs, (spec.name for spec in self.manifest.outputs)),
            layout=made.layout,
            options=made.runtime | plan.runtime,
        )
        sealed = seal(msgspec.structs.replace(self.manifest, variants=(variant,)), self.folder)
        entry = Entry(plan, made, sealed.variants[0])
        self.entries[entry.id] = entry
        return entry

    def name(self, canonical: Mapping[str, str]) -> None:
        """Set the canonical name of each logical tensor whose names differ."""
        self._names = dict(canonical)

    _names: Mapping[str, str] = {}

    def _mapping(self, names: Mapping[str, str], logical: Iterable[str]) -> dict[str, str]:
        mapping = {}
        for name in logical:
            canonical = self._names.get(name, name)
            in_file = names.get(canonical, canonical)
            if in_file != name:
                mapping[name] = in_file
        return mapping

    # -----------------------------------------------------------------------------------------

    def runs_here(self, entry: Entry) -> str:
        """Return why a candidate cannot be timed on this machine; empty if it can."""
        return "; ".join(reasons_against(entry.variant, self._facts, self.profile))

    def _stand_in(self, entry: Entry) -> Variant:
        """Return the variant to evaluate: on this machine's CPU if the accelerator is absent."""
        if entry.variant.accelerator == "cpu" or not self.runs_here(entry):
            return entry.variant
        backend = _STAND_IN.get(entry.variant.backend, entry.variant.backend)
        return msgspec.structs.replace(entry.variant, backend=backend, accelerator="cpu", options={})

    def _bundle(self, variants: Sequence[Variant]) -> Bundle:
        seal(msgspec.structs.replace(self.manifest, variants=tuple(variants)), self.folder)
        return open_bundle(self.folder)

    def evaluate(
        self,
        entries: Sequence[Entry],
        samples: Path,
        samples_key: str,
        sizes: Sequence[Sequence[int]] | None,
        done: Callable[[str], None],
        *,
        in_order: bool = False,
    ) -> dict[str, Path | str]:
        """Run candidates on the evaluation set, several at a time.

        Args:
            entries: The candidates to run.
            samples: NPZ of logical inputs.
            samples_key: The digest of its content.
            sizes: As for ``VariantProcess.evaluate``.
            done: Called with each id when it is done.
            in_order: As for ``VariantProcess.evaluate``.

        Returns:
            By id, the outputs' file (see ``observed``), or the reason why it could not be run.
        """
        run_as = {entry.id: self._stand_in(entry) for entry in entries}
        bundle = self._bundle([run_as[entry.id] for entry in entries])
        relaxed = msgspec.structs.replace(self.profile, backend=())
        m = self.manifest
        decoded = [m.inputs, m.outputs, m.state, m.pre, m.post, self._labels, sizes, in_order]
        code = [digest_of_module(name) for name in _ANSWERED_BY]

        def evaluate_one(entry: Entry) -> Path | str:
            variant = run_as[entry.id]
            version = backend_version(variant.backend) or ""
            run_on = [variant.backend, variant.accelerator, version, self._machine]
            key = digest_of(entry.key, run_on, samples_key, decoded, code)

            def fill(folder: Path) -> dict[str, Any]:
                against = reasons_against(variant, self._facts, relaxed)
                if against:
                    raise BackendError("; ".join(against))
                profile = self.profile if variant.accelerator != "cpu" else relaxed
                process = VariantProcess(bundle, variant, profile, 1)
                try:
                    with self.running.stopped_by(process.close):
                        process.evaluate(samples, folder / "outputs.npz", sizes, in_order=in_order)
                finally:
                    process.close()
                return {}

            try:
                return self._cache.make("evaluate", key, fill)[0] / "outputs.npz"
            except BackendError as error:
                return error.message
            finally:
                done(entry.id)

        results = self.running.map(max(1, min(self._facts.cores, 4)), "evaluate", evaluate_one, entries)
        return dict(zip([entry.id for entry in entries], results, strict=True))

    def time(
        self, entries: Sequence[Entry], seconds: float, done: Callable[[str], None], sitting: int = 0
    ) -> dict[str, Timing | str]:
        """Time candidates in short alternating turns, so that this machine's noise affects all alike.

        Args:
            entries: The candidates to time.
            seconds: How long each runs in total.
            done: Called with the candidate's id after each of its rounds.
            sitting: Another number times the same candidates again, in new processes.

        Returns:
            By id, the timing, or the reason why there is none.
        """
        results: dict[str, Timing | str] = {}
        fitting = []
        for entry in entries:
            why = self.runs_here(entry)
            if why:
                results[entry.id] = why
            else:
                fitting.append(entry)
        key = self._time_key(fitting, seconds, sitting)
        known = self._cache.find("time", key)
        if known is not None:
            timed = known[1]["timed"]
            return results | {entry.id: msgspec.convert(timed[entry.key], Timing) for entry in fitting}
        bundle = self._bundle([entry.variant for entry in fitting])
        variants = [entry.variant for entry in fitting]
        results |= time_variants(bundle, variants, self.profile, self._threads, seconds, done)
        timings = {e.key: results[e.id] for e in fitting if isinstance(results[e.id], Timing)}
        if len(timings) == len(fitting):  # a process that died may run next time
            self._cache.make("time", key, lambda _: {"timed": msgspec.to_builtins(timings)})
        return results

    def _time_key(self, entries: Sequence[Entry], seconds: float, sitting: int) -> str:
        versions = {entry.variant.backend: backend_version(entry.variant.backend) for entry in entries}
        code = [digest_of_module(name) for name in _TIMED_BY]
        how = [versions, self._threads, seconds, self._machine, code]
        return digest_of(sorted(entry.key for entry in entries), how, sitting)


def observed(outputs: Path) -> Observed:
    """Read the outputs that ``evaluate`` wrote."""
    with np.load(outputs, allow_pickle=False) as archive:
        tensors = {name: archive[name] for name in archive.files}
    items_file = outputs.with_name(outputs.name + ".items")
    items = None
    if items_file.exists():
        items = msgspec.json.decode(items_file.read_bytes(), type=tuple[tuple[Item, ...], ...])
    return Observed(tensors, items)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # the cache is on another file system
        shutil.copyfile(source, target)
