"""One run of ``edgekit optimize``, from reading the model to writing the bundle and report."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from edgekit.base.paths import cache_dir
from edgekit.core.errors import GateError, UsageError
from edgekit.core.spec import Facts, Manifest, Profile
from edgekit.hardware.profiles import load_profiles
from edgekit.model.doctor import facts_with_proofs
from edgekit.version import __version__
from edgekit_optimize.cache import Cache, digest_of_files, versions_of
from edgekit_optimize.metrics.scores import shifted
from edgekit_optimize.metrics.table import Observed, choose_metric, settle
from edgekit_optimize.plan import Plan, Root
from edgekit_optimize.run import choice, deliver, shrinking
from edgekit_optimize.run import on_device as remote
from edgekit_optimize.run.candidate_runner import CandidateRunner, Entry
from edgekit_optimize.run.deliver import Outcome
from edgekit_optimize.run.flags import check_numbers
from edgekit_optimize.run.inputs import Inputs, read_inputs
from edgekit_optimize.run.progress import Progress
from edgekit_optimize.run.request import Request
from edgekit_optimize.run.rules import left_out, plan_candidates, reference_plan
from edgekit_optimize.run.run_folder import run_folder
from edgekit_optimize.run.search import TOOLS, Evaluation, Search
from edgekit_optimize.study import Study, TargetResult

logger = logging.getLogger(__name__)

LABELLED_DROP, UNLABELLED_DROP = 0.01, 0.03
_FINAL_WITHIN = 1.2
_CACHE_BYTES = 20 * 10**9


def optimize(request: Request) -> Outcome:
    """Search for each target's best variant; write the bundle and the report.

    Targets without a variant are in the report, and ``shortfall`` turns them into an error.

    Raises:
        UsageError: A target, metric or flag does not exist or does not fit the model.
        ModelError: The model cannot be used; the error names the layer.
        ConfigError: The data cannot be used, or a tool is missing.
    """
    began = time.monotonic()
    check_numbers(request, os.cpu_count() or 1)
    deliver.check_output_paths(request)
    shrinking.check_flags(request)
    remote.check_flags(request)
    facts, detected = facts_with_proofs(Path("/"))
    targets = named_profiles(request.targets) or (detected.profile,)
    progress = Progress()
    folder = ((request.cache or cache_dir()) / "optimize").resolve()
    try:
        with run_folder(folder) as home:
            cache = Cache(folder, home)
            inputs = read_inputs(request, cache, progress)
            search = _search(request, inputs, facts, detected.profile, cache, progress, home / "candidates")
            _run(search, request, inputs, targets)
            chosen = [_choose(search, request, target, detected.profile) for target in targets]
            study = _study(search, request, inputs, facts, chosen, time.monotonic() - began)
            outcome = deliver.deliver(search, request, inputs, study)
        cache.trim(_CACHE_BYTES)
    finally:
        progress.close()
    return outcome


def named_profiles(names: Sequence[str]) -> tuple[Profile, ...]:
    """Return the profiles with these names.

    Raises:
        UsageError: There is no such profile.
    """
    known = {profile.id: profile for profile in load_profiles()}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(
            f"there is no profile {', '.join(map(repr, unknown))}", hint=f"one of: {', '.join(sorted(known))}"
        )
    return tuple(known[name] for name in dict.fromkeys(names))


def _search(
    request: Request,
    inputs: Inputs,
    facts: Facts,
    profile: Profile,
    cache: Cache,
    progress: Progress,
    folder: Path,
) -> Search:
    manifest = inputs.target_model.manifest
    runner = CandidateRunner(
        folder / manifest.model,
        manifest,
        inputs.target_model.labels,
        facts,
        profile,
        request.threads,
        cache,
    )
    runner.name(inputs.target_model.root.names)
    data = inputs.split.evaluation
    metric = choose_metric(request.metric, manifest.task, data)
    labelled = metric.labelled
    evaluation = Evaluation(
        data,
        inputs.samples,
        digest_of_files(inputs.samples),
        metric,
        data.sizes if metric.needs_items else None,
    )
    drop = request.max_drop if request.max_drop is not None else _default_drop(labelled=labelled)
    roots = {"original": inputs.target_model.root}
    return Search(runner, cache, progress, evaluation, roots, drop, request.seed)


def _default_drop(*, labelled: bool) -> float:
    return LABELLED_DROP if labelled else UNLABELLED_DROP


def _run(search: Search, request: Request, inputs: Inputs, targets: Sequence[Profile]) -> None:
    root = inputs.target_model.root
    first = search.make([reference_plan(root)])
    if not first:
        raise UsageError(f"the float model cannot be made: {search.results[reference_plan(root).id].error}")
    search.evaluate(first)
    _settle_post(search, request, inputs)
    _settle_metric(search, first)
    plans = _plans(root, request, inputs, targets)
    for small in shrinking.shrink(request, inputs, search):
        search.roots[small.id] = small
        reference, *rest = _of_root(small.id, _plans(small, request, inputs, targets))
        first += (entries := search.make([reference]))
        search.evaluate(entries)
        if search.results[reference.id].gate == "pass" or request.keep_all:
            plans += rest
        else:
            logger.info("%s misses the gate already in float: no other candidates are made from it", small.id)
    known = {entry.id for entry in first}
    search.evaluate(search.make([plan for plan in plans if plan.id not in known]))
    if request.sensitivity and root.onnx:
        search.measure_sensitivity(root.id)
    search.repair(plans)
    search.time(request.seconds)
    search.time_finalists(request.seconds * 3, _FINAL_WITHIN)
    remote.measure(search, request, inputs)


def _plans(root: Root, request: Request, inputs: Inputs, targets: Sequence[Profile]) -> list[Plan]:
    return list(
        plan_candidates(
            root,
            targets,
            has_calibration=True,
            task=inputs.target_model.manifest.task,
            exhaustive=request.exhaustive,
        )
    )


def _of_root(name: str, plans: Sequence[Plan]) -> list[Plan]:
    """Return plans with the root's name as prefix: ``pruned50-litert-int8``."""
    return [
        msgspec.structs.replace(
            plan, id=f"{name}-{plan.id}", root=name, same_as=f"{name}-{plan.same_as}" if plan.same_as else ""
        )
        for plan in plans
    ]


def _settle_post(search: Search, request: Request, inputs: Inputs) -> None:
    """Turn softmax off in the decoder if the classifier's outputs are probabilities already."""
    manifest = search.runner.manifest
    if manifest.task != "classify" or request.description.post is not None or inputs.is_described:
        return
    assert search.reference is not None
    if not _are_probabilities(search.reference):
        return
    options = manifest.post.options | {"activation": "none"}
    search.runner.describe(
        msgspec.structs.replace(manifest, post=msgspec.structs.replace(manifest.post, options=options))
    )


def _settle_metric(search: Search, first: Sequence[Entry]) -> None:
    """Choose the metric that suits the float model's outputs; note why it is not the default one."""
    assert search.reference is not None
    evaluation = search.evaluation
    metric, note = settle(evaluation.metric, search.reference)
    if note:
        search.notes.append(note)
    if metric != evaluation.metric:
        evaluation.metric = metric
        search.evaluate(first)


def _are_probabilities(reference: Observed) -> bool:
    scores = reference.outputs.get("scores", next(iter(reference.outputs.values())))
    rows = scores.reshape(len(scores), -1)
    return bool((rows >= 0).all() and np.allclose(rows.sum(axis=1), 1.0, atol=0.02))


def _choose(search: Search, request: Request, target: Profile, here: Profile) -> TargetResult:
    return choice.choose(
        search.candidates(),
        target,
        here=here.id,
        max_drop=search.max_drop,
        budget_ms=request.budget_ms,
        budget_mb=request.budget_mb,
    )


def _study(
    search: Search,
    request: Request,
    inputs: Inputs,
    facts: Facts,
    chosen: Sequence[TargetResult],
    seconds: float,
) -> Study:
    front = choice.front(search.candidates())
    kept = choice.keep(search.candidates(), chosen, keep_all=request.keep_all)
    results = tuple(
        msgspec.structs.replace(result, front=result.plan.id in front, kept=result.plan.id in kept)
        for result in search.candidates()
    )
    manifest: Manifest = search.runner.manifest
    metric = search.evaluation.metric
    return Study(
        model=manifest.model,
        version=manifest.version,
        bundle=str(request.out),
        command=request.command,
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        edgekit=__version__,
        machine=_machine(facts),
        versions=versions_of(*TOOLS),
        source=inputs.target_model.origin,
        checks=inputs.target_model.root.checks,
        data=inputs.split.facts,
        metric=metric.id,
        metric_means=metric.means,
        max_drop=search.max_drop,
        budget_ms=request.budget_ms,
        budget_mb=request.budget_mb,
        reference=search.reference_id,
        candidates=results,
        targets=tuple(chosen),
        sensitivity=search.sensitivity.get("original", ()),
        worst=deliver.worst_samples(search, inputs, chosen),
        warnings=(
            *inputs.split.warnings,
            *left_out(inputs.target_model.root),
            *search.notes,
            *_warnings(search),
        ),
        seconds=seconds,
    )


def _machine(facts: Facts) -> dict[str, str]:
    return {
        "cpu": facts.cpu,
        "cores": str(facts.cores),
        "arch": facts.arch,
        "memory_mb": str(facts.memory_mb),
        "python": sys.version.split()[0],
    }


def _warnings(search: Search) -> list[str]:
    warnings = []
    reference = search.results[search.reference_id].score
    data = search.evaluation.dataset
    if reference is not None and search.evaluation.metric.id == "top1" and data.labels is not None:
        chance = 1.0 / max(len(np.unique(data.labels)), 2)
        if reference.value < 3 * chance and reference.value < 0.5:
            warnings.append(
                f"the float model is right on {reference.value:.1%} of the samples, hardly better than"
                " chance: most likely its preprocessing (--mean, --std, --resize, --color) or the order of"
                " its labels differs from its training"
            )
    if search.evaluation.metric.id == "top1" and data.labels is not None and search.reference is not None:
        shift = shifted(search.reference.outputs, data.labels, len(data.classes))
        warnings += [shift] if shift else []
    widths = [(r.score.high - r.score.low) / 2 for r in search.results.values() if r.score is not None]
    if widths and max(widths) > search.max_drop:
        warnings.append(
            f"{len(data)} samples measure a drop to within ±{max(widths):.3f} at worst, the gate is"
            f" {search.max_drop:g}: use more samples for more certain verdicts"
        )
    return warnings


def shortfall(outcome: Outcome) -> GateError | None:
    """Return the error for targets without a variant; None if every target has one."""
    without = [target for target in outcome.study.targets if not target.chosen]
    if not without:
        return None
    reasons = []
    for target in without:
        shown = [f"{name}: {why[0]}" for name, why in target.rejected.items() if why]
        reasons += [f"{target.profile}: {line}" for line in shown[:8]]
    return GateError(
        f"no variant within the gate for {', '.join(target.profile for target in without)}",
        reasons=tuple(reasons),
        hint=f"see {outcome.report}; allow more with --max-drop or a larger budget, give more calibration"
        " data, or train for it (--train with --prune, --student or --qat)",
    )
