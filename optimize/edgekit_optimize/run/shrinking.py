"""Train smaller networks with the user's code: pruning, distillation, quantisation-aware training."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from edgekit.core.errors import UsageError
from edgekit_optimize.cache import code_digest, digest_of, versions_of
from edgekit_optimize.plan import Root
from edgekit_optimize.run.child_job import run_child_job
from edgekit_optimize.run.inputs import Inputs, read_model
from edgekit_optimize.run.reads import make_unless_kept
from edgekit_optimize.run.request import Request
from edgekit_optimize.run.search import Search

logger = logging.getLogger(__name__)


def check_flags(request: Request) -> None:
    """Check that the requested training is possible.

    Raises:
        UsageError: Pruning, distillation or quantisation-aware training without a torch model or
            without a train function.
    """
    asked = request.shrinking
    flags = [
        flag
        for flag, value in (("--prune", asked.prune), ("--student", asked.student), ("--qat", asked.qat))
        if value
    ]
    if not flags:
        return
    if ":" not in request.model:
        raise UsageError(
            f"{flags[0]} needs the model as a torch module, got {request.model}",
            hint="give MODEL as module:function, a function that builds the trained torch.nn.Module",
        )
    if not asked.train:
        raise UsageError(
            f"{flags[0]} needs --train module:function", hint="docs/optimize.md says what it does"
        )
    if bad := [ratio for ratio in asked.prune if not 0 < ratio < 1]:
        raise UsageError(f"--prune: want a share of the multiply-adds between 0 and 1, got {bad[0]:g}")


def shrink(request: Request, inputs: Inputs, search: Search) -> Iterator[Root]:
    """Train each requested model, and yield it as a root."""
    asked, root = request.shrinking, inputs.target_model.root
    arguments = {
        "shape": list(root.inputs[0].shape),
        "epochs": asked.epochs,
        "seed": request.seed,
        "loss": asked.loss,
    }
    jobs: list[tuple[str, str, list[str], dict[str, Any]]] = [
        (
            f"pruned{ratio:.0%}".rstrip("%"),
            "prune",
            [request.model, asked.train],
            arguments | {"ratio": ratio},
        )
        for ratio in asked.prune
    ]
    if asked.student:
        jobs.append(("student", "distill", [request.model, asked.student, asked.train], arguments))
    if asked.qat:
        jobs.append(("qat", "qat", [request.model, asked.train], arguments))
    for name, how, models, arguments in jobs:
        yield _shrunk(name, how, models, arguments, inputs, search)


def _shrunk(
    name: str, how: str, models: list[str], arguments: dict[str, Any], inputs: Inputs, search: Search
) -> Root:
    """Train one smaller model, or take it from the cache if nothing that it depends on has changed."""
    search.progress.stage(f"training: {name}")
    task = {"how": how, "models": models, "arguments": arguments}
    base = inputs.target_model.root
    python_path = [
        str(Path.cwd()),
        os.environ.get("PYTHONPATH", ""),
    ]  # where the user's modules are imported from
    key = digest_of(
        task, python_path, search.root_key(base), code_digest(), versions_of("torch", "torch-pruning")
    )

    def fill(folder: Path) -> dict[str, Any]:
        return run_child_job("shrink", task, folder, progress=search.progress.within)

    folder, result, was_there = make_unless_kept(search.cache, "trained", key, fill)
    if was_there:
        logger.info("%s: taken from an earlier run; the code and files that it read have not changed", name)
    for note in result["shrunk"]["notes"]:
        logger.info("%s: %s", name, note)
    root = read_model(folder / Path(result["shrunk"]["onnx"]).name, search.cache)
    return msgspec.structs.replace(
        root,
        id=name,
        calibration=base.calibration,
        pre=base.pre,
        names={logical: _same(canonical, base, root) for logical, canonical in _names(inputs).items()},
        image=_same(base.image, base, root) if base.image else "",
        layout=base.layout,
    )


def _names(inputs: Inputs) -> dict[str, str]:
    manifest, names = inputs.target_model.manifest, inputs.target_model.root.names
    return {spec.name: names.get(spec.name, spec.name) for spec in (*manifest.inputs, *manifest.outputs)}


def _same(name: str, base: Root, root: Root) -> str:
    """Return the tensor of another root at the same position as this one in the base."""
    for ours, theirs in ((base.inputs, root.inputs), (base.outputs, root.outputs)):
        for one, other in zip(ours, theirs, strict=True):
            if one.name == name:
                return other.name
    return name
