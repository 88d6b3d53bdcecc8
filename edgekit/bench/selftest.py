"""Tests a whole machine for a report: what it is, what runs on it, and how long it keeps its speed.

    report = selftest([open_bundle("person-detect.ekb")], seconds=600.0)

The report names models by their manifests and holds nothing personal: no host or user name, serial number,
address or path.
"""

from __future__ import annotations

import os
import platform
import re
import socket
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

import edgekit.backends.tiny
from edgekit.bench.measure import measure
from edgekit.bench.variant_process import VariantProcess
from edgekit.core.errors import BackendError
from edgekit.core.select import reasons_against
from edgekit.core.spec import Facts, Profile, Variant
from edgekit.core.wire import MeasuredVariant
from edgekit.hardware.machine import Kind, machine_kind
from edgekit.hardware.sensors import Sensors
from edgekit.hardware.tree import Tree
from edgekit.model.bundle import Bundle, open_bundle
from edgekit.model.choice import default_threads
from edgekit.model.doctor import Examination, Prover, examine
from edgekit.version import __version__

FORMAT = 1
_VARIANT_S = 1.0
_READINGS = 60
_TINY = Path(edgekit.backends.tiny.__file__).parent
# The smallest model of each runtime: the load where no bundle is given.
_TINY_FILES = ("relu.tflite", "relu.onnx", "relu.xml")


class ModelTest(msgspec.Struct, frozen=True, kw_only=True):
    """One bundle: each variant's figures, or why it has none; a wrong answer is an error there."""

    model: str
    version: str
    manifest_sha256: str
    threads: int
    golden: int
    variants: tuple[MeasuredVariant, ...]


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """One moment under load: inferences per second of all processes, and what ``Sensors.read`` returned."""

    at_s: float
    inferences_per_s: float
    sensors: dict[str, float | bool]


class Endurance(msgspec.Struct, frozen=True, kw_only=True):
    """All cores under load for some minutes. ``kept_ratio``: the last fifth's rate over the first fifth's."""

    model: str
    variant: str
    processes: int
    seconds: float
    kept_ratio: float
    readings: tuple[Reading, ...]


class SelftestReport(msgspec.Struct, frozen=True, kw_only=True):
    """What ``edgekit selftest --report`` writes."""

    format: int = FORMAT
    edgekit: str = __version__
    date: str
    """UTC, the day only."""
    kind: Kind
    profile: str
    system: str
    kernel: str
    python: str
    facts: Facts
    models: tuple[ModelTest, ...] = ()
    endurance: Endurance | None = None
    failures: tuple[str, ...] = ()
    """Of variants that belong on this machine; one for other hardware has its reason in its row."""


def selftest(
    bundles: Sequence[Bundle],
    seconds: float,
    on_step: Callable[[str], object] = lambda _: None,
    prover: Prover | None = None,
) -> SelftestReport:
    """Examine this machine, run every bundle's variants, then load all cores for ``seconds``.

    Args:
        bundles: What to run; without any, the load is a tiny model.
        seconds: How long the load lasts; 0 leaves it out.
        on_step: Called with what is being done.
        prover: Proves a backend, as in ``examine``.
    """
    examination = examine(prover=prover, on_step=on_step)
    facts, profile = examination.facts, examination.chosen.profile
    threads = default_threads(facts)
    models, failures = [], []
    for bundle in bundles:
        on_step(f"running {bundle.manifest.model}")
        rows = measure(bundle, bundle.manifest.variants, facts, profile, threads, _VARIANT_S)
        models.append(_model_test(bundle, rows, threads))
        failures += _failures(bundle, rows, facts, profile)
    endurance = None
    if seconds > 0 and (load := _load(bundles, models, facts)) is not None:
        on_step(f"all cores under load for {seconds:.0f} s")
        endurance = _endure(*load, examination, seconds)
    return _without_names(_report(examination, models, endurance, failures), bundles)


def _model_test(bundle: Bundle, rows: Sequence[MeasuredVariant], threads: int) -> ModelTest:
    return ModelTest(
        model=bundle.manifest.model,
        version=bundle.manifest.version,
        manifest_sha256=bundle.digest,
        threads=threads,
        golden=len(bundle.manifest.golden),
        variants=tuple(rows),
    )


def _failures(bundle: Bundle, rows: Sequence[MeasuredVariant], facts: Facts, profile: Profile) -> list[str]:
    """Return what went wrong with the variants that belong on this machine."""
    name = bundle.manifest.model
    belongs = {v.id for v in bundle.manifest.variants if not reasons_against(v, facts, profile)}
    return [f"{row.id} of {name}: {row.error}" for row in rows if row.error and row.id in belongs]


def _report(
    examination: Examination,
    models: Sequence[ModelTest],
    endurance: Endurance | None,
    failures: Sequence[str],
) -> SelftestReport:
    facts = examination.facts
    return SelftestReport(
        date=time.strftime("%Y-%m-%d", time.gmtime()),
        kind=machine_kind(Tree(Path("/"))),
        profile=examination.chosen.profile.id,
        system=_system(),
        kernel=platform.release(),
        python=platform.python_version(),
        facts=facts,
        models=tuple(models),
        endurance=endurance,
        failures=tuple(failures),
    )


def _system() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        return ""


# -- the load


def _load(
    bundles: Sequence[Bundle], models: Sequence[ModelTest], facts: Facts
) -> tuple[Bundle, Variant] | None:
    """Return the first bundle and its fastest variant; a tiny model where none runs."""
    for bundle, model in zip(bundles, models, strict=True):
        ran = [row for row in model.variants if row.p50_ms is not None]
        if ran:
            best = min(ran, key=lambda row: row.p50_ms or 0.0).id
            return bundle, next(v for v in bundle.manifest.variants if v.id == best)
    working = {backend.name for backend in facts.backends if backend.works and backend.accelerator == "cpu"}
    for file in _TINY_FILES:
        bundle = open_bundle(_TINY / file)
        for variant in bundle.manifest.variants:
            if variant.backend in working:
                return bundle, variant
    return None


def _endure(bundle: Bundle, variant: Variant, examination: Examination, seconds: float) -> Endurance | None:
    """Run a variant in one process a core, of one thread each; on an accelerator in one process."""
    profile, count = examination.chosen.profile, examination.facts.cores
    count = count if variant.accelerator == "cpu" else 1
    sensors = Sensors(Path("/"), profile.telemetry)
    with ExitStack() as open_processes, ThreadPoolExecutor(count) as pool:
        try:
            processes = list(pool.map(lambda _: _opened(bundle, variant, profile), range(count)))
            for process in processes:
                open_processes.callback(process.close)
            readings = _readings(processes, pool, sensors, seconds)
        except BackendError:  # its error stands in the variant's own row
            return None
    return Endurance(
        model=bundle.manifest.model,
        variant=variant.id,
        processes=count,
        seconds=round(readings[-1].at_s, 1),
        kept_ratio=_kept([reading.inferences_per_s for reading in readings]),
        readings=tuple(readings),
    )


def _opened(bundle: Bundle, variant: Variant, profile: Profile) -> VariantProcess:
    return VariantProcess(bundle, variant, profile, 1)


def _readings(
    processes: Sequence[VariantProcess], pool: ThreadPoolExecutor, sensors: Sensors, seconds: float
) -> list[Reading]:
    each_s = max(0.1, seconds / _READINGS)
    began_s, readings = time.monotonic(), list[Reading]()
    while not readings or readings[-1].at_s < seconds:
        started_s = time.monotonic()
        counts = list(pool.map(lambda process: len(process.measure(each_s)), processes))
        now_s = time.monotonic()
        rate = round(sum(counts) / (now_s - started_s), 2)
        readings.append(
            Reading(at_s=round(now_s - began_s, 1), inferences_per_s=rate, sensors=sensors.read())
        )
    return readings


def _kept(rates: Sequence[float]) -> float:
    """Return the mean rate of the last fifth over that of the first fifth.

    >>> _kept([10.0, 10.0, 9.0, 8.0, 5.0])
    0.5
    """
    part = max(1, len(rates) // 5)
    first, last = sum(rates[:part]), sum(rates[-part:])
    return round(last / first, 3) if first else 0.0


# -- nothing personal


def _without_names(report: SelftestReport, bundles: Sequence[Bundle]) -> SelftestReport:
    """Replace paths and names of this machine, which a library's error may quote."""
    folders = [*(str(path) for bundle in bundles for path in (bundle.root, bundle.source)), sys.prefix]
    folders += [str(Path.home()), str(Path.cwd()), os.environ.get("EDGEKIT_CACHE", "")]
    names = [socket.gethostname(), os.environ.get("USER", ""), os.environ.get("LOGNAME", "")]
    private = [re.escape(folder) for folder in sorted(folders, key=len, reverse=True) if len(folder) > 1]
    private += [rf"(?<![\w-]){re.escape(name)}(?![\w-])" for name in names if name]
    pattern = re.compile("|".join(private))

    def clean(value: Any) -> Any:
        if isinstance(value, str):
            return pattern.sub("...", value)
        if isinstance(value, dict):
            return {key: clean(part) for key, part in value.items()}
        return [clean(part) for part in value] if isinstance(value, (list, tuple)) else value

    return msgspec.convert(clean(msgspec.to_builtins(report)), SelftestReport)
