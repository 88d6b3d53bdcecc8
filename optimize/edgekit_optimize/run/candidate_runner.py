"""The bench on which candidates are run: one working bundle, evaluated and timed in child processes.

Candidates run here exactly as a device runs them: the same predictor, backends and options. One that
is for an accelerator this machine lacks is evaluated on the CPU of the same kind of file; its speed
stays unknown.
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
from edgekit.bench.variant_process import LabProcess
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
"""Code by which answers and times come about: with other code they are found anew."""


@dataclass(frozen=True)
class Entry:
    """A candidate that was made: its plan, what was made, and the variant it would be."""

    plan: Plan
    made: Made
    variant: Variant

    @property
    def id(self) -> str:
        """The variant's id."""
        return self.variant.id

    @property
    def key(self) -> str:
        """A digest of all that its answers depend on."""
        variant = self.variant
        files = [file.sha256 for file in variant.files]
        how = [variant.inputs, variant.outputs, variant.layout, variant.options]
        return digest_of(files, variant.backend, variant.accelerator, variant.precision, how)


class Workbench:
    """Runs candidates of one model.

    Args:
        folder: The working bundle's; made here.
        manifest: What the bundle says but for its variants.
        labels: One for each class.
        facts: What this machine is.
        profile: Its profile.
        threads: CPU threads for every runtime.
        cache: What was evaluated and timed before.
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
        """Take another manifest, once more is known of the model."""
        self.manifest = msgspec.structs.replace(manifest, labels=self.manifest.labels)

    def add(self, plan: Plan, made: Made, folder: Path) -> Entry:
        """Put a candidate's files on the bench; a plan that shares another's files gets those."""
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
        """Say which canonical tensor each logical one is, where the names differ."""
        self._names = dict(canonical)

    _names: Mapping[str, str] = {}

    def _mapping(self, made: Mapping[str, str], logical: Iterable[str]) -> dict[str, str]:
        found = {}
        for name in logical:
            canonical = self._names.get(name, name)
            there = made.get(canonical, canonical)
            if there != name:
                found[name] = there
        return found

    # -----------------------------------------------------------------------------------------

    def runs_here(self, entry: Entry) -> str:
        """Return why a candidate as it is cannot be timed here; empty where it can."""
        return "; ".join(reasons_against(entry.variant, self._facts, self.profile))

    def _stand_in(self, entry: Entry) -> Variant:
        """Return the variant that is evaluated: on this machine's CPU where the accelerator is absent."""
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
            entries: Those to run.
            samples: NPZ of logical inputs.
            samples_key: What names its content.
            sizes: As for ``LabProcess.evaluate``.
            done: Told each id when it is done.
            in_order: As for ``LabProcess.evaluate``.

        Returns:
            By id, the outputs' file (for ``observed``), or the reason why it could not be run.
        """
        run_as = {entry.id: self._stand_in(entry) for entry in entries}
        bundle = self._bundle([run_as[entry.id] for entry in entries])
        relaxed = msgspec.structs.replace(self.profile, backend=())
        said = self.manifest
        decoded = [said.inputs, said.outputs, said.state, said.pre, said.post, self._labels, sizes, in_order]
        code = [digest_of_module(name) for name in _ANSWERED_BY]

        def one(entry: Entry) -> Path | str:
            variant = run_as[entry.id]
            version = backend_version(variant.backend) or ""
            run_on = [variant.backend, variant.accelerator, version, self._machine]
            key = digest_of(entry.key, run_on, samples_key, decoded, code)

            def fill(folder: Path) -> dict[str, Any]:
                against = reasons_against(variant, self._facts, relaxed)
                if against:
                    raise BackendError("; ".join(against))
                profile = self.profile if variant.accelerator != "cpu" else relaxed
                lab = LabProcess(bundle, variant, profile, 1)
                try:
                    with self.running.stopped_by(lab.close):
                        lab.evaluate(samples, folder / "outputs.npz", sizes, in_order=in_order)
                finally:
                    lab.close()
                return {}

            try:
                return self._cache.make("evaluate", key, fill)[0] / "outputs.npz"
            except BackendError as error:
                return error.message
            finally:
                done(entry.id)

        found = self.running.map(max(1, min(self._facts.cores, 4)), "evaluate", one, entries)
        return dict(zip([entry.id for entry in entries], found, strict=True))

    def time(
        self, entries: Sequence[Entry], seconds: float, done: Callable[[str], None], sitting: int = 0
    ) -> dict[str, Timing | str]:
        """Time candidates in short turns, so that this machine's noise is shared by all.

        Args:
            entries: Those to time.
            seconds: How long each runs in all.
            done: Told each candidate's id after each of its rounds.
            sitting: A number; the same candidates are timed anew, in fresh processes, for another.

        Returns:
            By id, the timing, or the reason why there is none.
        """
        found: dict[str, Timing | str] = {}
        fitting = []
        for entry in entries:
            why = self.runs_here(entry)
            if why:
                found[entry.id] = why
            else:
                fitting.append(entry)
        key = self._time_key(fitting, seconds, sitting)
        known = self._cache.find("time", key)
        if known is not None:
            timed = known[1]["timed"]
            return found | {entry.id: msgspec.convert(timed[entry.key], Timing) for entry in fitting}
        bundle = self._bundle([entry.variant for entry in fitting])
        variants = [entry.variant for entry in fitting]
        found |= time_variants(bundle, variants, self.profile, self._threads, seconds, done)
        timings = {e.key: found[e.id] for e in fitting if isinstance(found[e.id], Timing)}
        if len(timings) == len(fitting):  # what died here may run another time
            self._cache.make("time", key, lambda _: {"timed": msgspec.to_builtins(timings)})
        return found

    def _time_key(self, entries: Sequence[Entry], seconds: float, sitting: int) -> str:
        versions = {entry.variant.backend: backend_version(entry.variant.backend) for entry in entries}
        code = [digest_of_module(name) for name in _TIMED_BY]
        how = [versions, self._threads, seconds, self._machine, code]
        return digest_of(sorted(entry.key for entry in entries), how, sitting)


def observed(outputs: Path) -> Observed:
    """Return what ``evaluate`` wrote."""
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
    except OSError:  # the cache lies on another file system
        shutil.copyfile(source, target)
