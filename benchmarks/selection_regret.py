"""How much slower the variant that edgekit chooses is than the fastest one within the gate.

    python benchmarks/selection_regret.py [--bundles DIR] [--models NAME,...] [--threads 1,2] [--full]

For each model of the zoo and each number of threads, three steps, each with measurements of its own:

1. edgekit chooses twice: by inference times as ``edgekit bench`` and ``select`` do, and by total times
   as ``edgekit optimize`` does;
2. every variant within the gate is measured again, in many short rounds in turn: the fastest of all
   is the rival;
3. chosen and rival run against each other in still other rounds, and the chosen variant against a
   second process of itself, which is the noise floor.

Regret is the median over rounds of chosen over rival, 1.0 where the chosen variant is the fastest.
The rival is fixed before the rounds that judge it, so that it does not win by its luck.

``--bundles`` holds bundles already built (any, also those of ``edgekit optimize``); what the zoo's
recipes name and is not there is built into it. ``--full`` takes about 15 minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from edgekit.base.paths import cache_dir
from edgekit.bench.paired_timing import ROUND_S, Rounds, quiet, take_turns
from edgekit.bench.variant_process import VariantProcess
from edgekit.core.select import reasons_against, select
from edgekit.core.spec import Facts, Profile, Variant
from edgekit.model.bundle import Bundle, open_bundle
from edgekit.model.doctor import facts_with_proofs
from edgekit_optimize.plan import Plan
from edgekit_optimize.run.choice import choose
from edgekit_optimize.study import CandidateResult, Score, Timing
from edgekit_optimize.zoo.build import build
from edgekit_optimize.zoo.recipe import recipes

sys.path.insert(0, str(Path(__file__).parent))
from _report import finish, parser

BAR = 1.05
GATE = 0.03  # what a variant of the zoo may lose; one without a figure is float
FEWEST, MOST = 6, 60  # rounds of a duel
FINAL_WITHIN = 1.2  # as edgekit optimize: those about as fast as the best are timed again
BOX_S, FULL_BOX_S = 12.0, 75.0  # what one model with one number of threads may take
CLAIM = "the chosen variant is within 5 % of the fastest one within the gate"


@dataclass(frozen=True)
class Machine:
    """This machine, and how long a case may take on it."""

    facts: Facts
    profile: Profile
    box_s: float
    is_full: bool
    is_sabotaged: bool


def main() -> int:
    """Measure every case and hold the worst against the bar."""
    arguments = _arguments()
    facts, detected = facts_with_proofs(Path("/"))
    machine = Machine(
        facts,
        detected.profile,
        FULL_BOX_S if arguments.full else BOX_S,
        is_full=arguments.full,
        is_sabotaged=arguments.sabotage,
    )
    cases = []
    for name in arguments.models:
        bundle = bundle_of(name, arguments.bundles)
        for threads in arguments.threads:
            cases.append(case(bundle, threads, machine))
            print(name, threads, cases[-1], file=sys.stderr)
    worst = max(one["regret"] for one in cases)
    floor = max(one["noise_floor"] for one in cases)
    detail = {"noise_floor": floor, "profile": machine.profile.id, "cases": cases}
    return finish(CLAIM, worst, "ratio", BAR, worst <= BAR, detail, arguments.json)


def _arguments() -> argparse.Namespace:
    options = parser(__doc__, full="longer, about 15 minutes", sabotage="a slow variant is chosen")
    options.add_argument("--bundles", type=Path, default=cache_dir() / "benchmarks" / "zoo")
    options.add_argument("--models", default=",".join(recipes()), type=lambda text: text.split(","))
    options.add_argument(
        "--threads", default="1,2", type=lambda text: [int(number) for number in text.split(",")]
    )
    arguments = options.parse_args()
    if arguments.sabotage:
        arguments.models, arguments.threads = arguments.models[:1], arguments.threads[:1]
    return arguments


def bundle_of(name: str, folder: Path) -> Bundle:
    """Return a model's bundle, built where it is not there."""
    path = folder / f"{name}-{recipes()[name].version}"
    if not path.is_dir():
        others = sorted(folder.glob(f"{name}*/bundle.json"))
        path = others[-1].parent if others else build(name, folder, cache=cache_dir())
    return open_bundle(path)


def in_gate(variant: Variant) -> bool:
    """Return whether a variant keeps the float model's quality; float itself does."""
    quality = variant.quality
    if quality is None:
        return variant.precision == "fp32"
    return (quality.reference or 0.0) - quality.value <= GATE


def case(bundle: Bundle, threads: int, machine: Machine) -> dict[str, Any]:
    """Return the regret of both choices for one model with one number of threads."""
    end = time.monotonic() + machine.box_s
    fit = [
        variant
        for variant in bundle.manifest.variants
        if in_gate(variant) and not reasons_against(variant, machine.facts, machine.profile)
    ]
    with contextlib.ExitStack() as stack:
        processes = _open(stack, bundle, fit, threads, machine)
        rounds = _turns(processes.values(), 2.0 if machine.is_full else 1.0)
        pre = {name: quiet(found.pre_ms) for name, found in rounds.items()}
        speeds = {name: found.p50_ms for name, found in rounds.items()}
        chosen = {
            "bench": chosen_by_bench(bundle, processes, speeds, machine),
            "optimize": chosen_by_search(processes, speeds, pre, threads, machine),
        }
        p50 = exhaustive(processes, machine)
        if machine.is_sabotaged:
            chosen["bench"] = max(p50, key=lambda n: p50[n])
        totals = {name: p50[name] + pre[name] for name in p50}
        rival = {"bench": min(p50, key=lambda n: p50[n]), "optimize": min(totals, key=lambda n: totals[n])}
        names = dict.fromkeys((*chosen.values(), *rival.values()))
        field = {name: processes[name] for name in names}
        (twin,) = _open(stack, bundle, [processes[chosen["bench"]].variant], threads, machine).values()
        duels = duel(field | {"twin": twin}, end)
        if machine.is_sabotaged:  # so slow that no noise hides it
            duels = [row | {chosen["bench"]: 3 * max(row.values())} for row in duels]
    extra = {"bench": dict.fromkeys(names, 0.0), "optimize": pre}
    regrets = {
        way: _ratio(duels, chosen[way], rival[way], extra[way][chosen[way]], extra[way][rival[way]])
        for way in chosen
    }
    same = _ratio(duels, chosen["bench"], "twin", 0.0, 0.0)
    return {
        "model": bundle.manifest.model,
        "threads": threads,
        "regret": max(1.0, *regrets.values()),
        "regrets": regrets,
        "chosen": chosen,
        "fastest": rival,
        "noise_floor": max(same, round(1 / same, 4)),
        "rounds": len(duels),
        "p50_ms": {name: round(p50[name], 4) for name in sorted(p50, key=lambda n: p50[n])},
    }


def _open(
    stack: contextlib.ExitStack, bundle: Bundle, variants: Sequence[Variant], threads: int, machine: Machine
) -> dict[str, VariantProcess]:
    """Return a process for each variant; loading takes both cores, measuring comes after."""

    def load(variant: Variant) -> VariantProcess:
        process = VariantProcess(bundle, variant, machine.profile, threads)
        stack.callback(process.close)
        return process

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return {process.variant.id: process for process in pool.map(load, variants)}


# ---------------------------------------------------------------------------------------------
# 1. edgekit chooses


def chosen_by_bench(
    bundle: Bundle, processes: dict[str, VariantProcess], speeds: dict[str, float], machine: Machine
) -> str:
    """Return what ``edgekit bench`` and ``select`` choose: the shortest inference."""
    variants = tuple(process.variant for process in processes.values())
    manifest = msgspec.structs.replace(bundle.manifest, variants=variants, golden=())
    selection = select(manifest, machine.facts, machine.profile, speeds)
    assert selection.chosen is not None
    return selection.chosen.id


def chosen_by_search(
    processes: dict[str, VariantProcess],
    speeds: dict[str, float],
    pre: dict[str, float],
    threads: int,
    machine: Machine,
) -> str:
    """Return what ``edgekit optimize`` chooses: total times, the fastest timed again, ties by quality."""
    totals = {name: p50_ms + pre[name] for name, p50_ms in speeds.items()}
    best = min(totals.values())
    finalists = [processes[name] for name, total in totals.items() if total <= best * FINAL_WITHIN]
    if len(finalists) > 1:
        again = _turns(finalists, 3.0)
        totals |= {name: found.p50_ms + quiet(found.pre_ms) for name, found in again.items()}
    results = [
        _result(process.variant, totals[name] - pre[name], pre[name], threads, machine.profile.id)
        for name, process in processes.items()
    ]
    return choose(results, machine.profile, here=machine.profile.id, max_drop=GATE).chosen


def _turns(processes: Iterable[VariantProcess], seconds: float) -> dict[str, Rounds]:
    rounds, errors = take_turns(list(processes), seconds, fill=True)
    if errors:
        raise SystemExit(f"cannot be measured: {errors}")
    return rounds


def _result(variant: Variant, p50_ms: float, pre_ms: float, threads: int, profile: str) -> CandidateResult:
    quality = variant.quality
    value, reference = (quality.value, quality.reference or 1.0) if quality else (1.0, 1.0)
    drop = reference - value
    return CandidateResult(
        plan=Plan(
            id=variant.id,
            technique="",
            backend=variant.backend,
            accelerator=variant.accelerator,
            precision=variant.precision,
        ),
        bytes=sum(file.bytes for file in variant.files),
        score=Score(
            metric="kept", value=value, reference=reference, samples=1, drop=drop, low=drop, high=drop
        ),
        gate="pass",
        timings=(
            Timing(
                profile=profile, threads=threads, p50_ms=p50_ms, p95_ms=p50_ms, p99_ms=p50_ms, pre_ms=pre_ms
            ),
        ),
    )


# ---------------------------------------------------------------------------------------------
# 2. Everything again, 3. chosen against the fastest


def exhaustive(processes: dict[str, VariantProcess], machine: Machine) -> dict[str, float]:
    """Return each variant's median of the medians of short rounds, in milliseconds, in turn."""
    rows = [_round(processes, turn) for turn in range(20 if machine.is_full else 5)]
    return {name: statistics.median(row[name] for row in rows) for name in processes}


def duel(field: dict[str, VariantProcess], end: float) -> list[dict[str, float]]:
    """Return the medians of each round, until the time is over or there are enough rounds."""
    rows: list[dict[str, float]] = []
    while len(rows) < FEWEST or (len(rows) < MOST and time.monotonic() < end):
        rows.append(_round(field, len(rows)))
    return rows


def _round(field: dict[str, VariantProcess], turn: int) -> dict[str, float]:
    """Run each once for a tenth of a second, in another order each time."""
    names = list(field)
    random.Random(turn).shuffle(names)
    return {name: _median_ms(field[name].measure(ROUND_S)) for name in names}


def _ratio(
    rounds: Sequence[dict[str, float]], mine: str, other: str, my_extra: float, other_extra: float
) -> float:
    """Return the median over rounds of one time over another."""
    ratios = [(row[mine] + my_extra) / (row[other] + other_extra) for row in rounds]
    return round(statistics.median(ratios), 4)


def _median_ms(times_us: Sequence[float]) -> float:
    return statistics.median(times_us) / 1e3


if __name__ == "__main__":
    sys.exit(main())
