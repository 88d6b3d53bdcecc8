"""The jobs that run in child processes: plain data in, plain data and files out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from edgekit_optimize.plan import Plan, Root, maker

Progress = Callable[[float, str], None]
"""Called with the share that is done, 0 to 1, and a text."""
Job = Callable[[Mapping[str, Any], Path, Progress], dict[str, Any]]


def _read(task: Mapping[str, Any], folder: Path, _progress: Progress) -> dict[str, Any]:
    from edgekit_optimize.readers.read import read_source

    shapes = {name: tuple(shape) for name, shape in task["shapes"].items()}
    root, origin = read_source(task["model"], folder, shapes=shapes)
    return {"root": msgspec.to_builtins(root), "origin": msgspec.to_builtins(origin)}


def _check(task: Mapping[str, Any], _folder: Path, _progress: Progress) -> dict[str, Any]:
    import numpy as np

    from edgekit_optimize.readers.read import check_root

    root = msgspec.convert(task["root"], Root)
    with np.load(root.calibration, allow_pickle=False) as archive:
        samples = {name: archive[name][: task["samples"]] for name in archive.files}
    return {"root": msgspec.to_builtins(check_root(root, samples))}


def _warm_states(task: Mapping[str, Any], folder: Path, _progress: Progress) -> dict[str, Any]:
    import numpy as np

    from edgekit_optimize.run.warm_states import warm_states

    with np.load(task["samples"], allow_pickle=False) as archive:
        data = {name: archive[name] for name in archive.files}
    states = warm_states(msgspec.convert(task["root"], Root), data, task["pairs"], task["starts"])
    np.savez(folder / "states.npz", allow_pickle=False, **states)
    return {}


def _make(task: Mapping[str, Any], folder: Path, _progress: Progress) -> dict[str, Any]:
    plan = msgspec.convert(task["plan"], Plan)
    made = maker(plan.technique)(msgspec.convert(task["root"], Root), plan, folder)
    return {"made": msgspec.to_builtins(made)}


def _sensitivity(task: Mapping[str, Any], _folder: Path, progress: Progress) -> dict[str, Any]:
    from edgekit_optimize.makers.sensitivity import measure

    layers = measure(
        msgspec.convert(task["root"], Root),
        samples=task["samples"],
        progress=lambda done, total: progress(done / max(total, 1), f"layer {done} of {total}"),
    )
    return {"layers": msgspec.to_builtins(layers)}


def _shrink(task: Mapping[str, Any], folder: Path, progress: Progress) -> dict[str, Any]:
    from edgekit_optimize.run.reads import Watch

    watch = Watch()  # before the user's code is imported
    from edgekit_optimize.shrink import api

    functions: dict[str, Callable[..., Any]] = {
        "prune": api.prune,
        "distill": api.distill,
        "alone": api.alone,
        "qat": api.qat,
    }
    arguments = dict(task["arguments"])
    arguments["shape"] = tuple(arguments["shape"])
    shrunk = functions[task["how"]](*task["models"], folder, progress=progress, **arguments)
    return {"shrunk": msgspec.to_builtins(shrunk), "reads": watch.files(folder)}


JOBS: dict[str, Job] = {
    "read": _read,
    "check": _check,
    "warm-states": _warm_states,
    "make": _make,
    "sensitivity": _sensitivity,
    "shrink": _shrink,
}
