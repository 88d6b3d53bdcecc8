"""Prove a backend by running a model in a child process, because a library may abort, crash or hang.

An old Edge TPU library does with a newer runtime, and one real model makes LiteRT abort the process.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from edgekit.backends import LIBRARIES, backend_version, open_backend
from edgekit.backends.tiny import INPUTS, expected, tiny_model
from edgekit.base.accelerators import accelerator
from edgekit.base.child import Child, ChildFault, run_job, signal_name
from edgekit.base.install_hint import install_hint
from edgekit.core.errors import EdgekitError, ModelLoadError
from edgekit.core.spec import AcceleratorKind, BackendFact, BackendName, Variant

_TIMED_RUNS = 20
_TOLERANCE = 0.05  # the tiny model's numbers are whole and under 16, exact even in bf16
_NOT_PROVED = "present, not proved"


def prove(
    name: BackendName,
    accelerator: AcceleratorKind = "cpu",
    options: Mapping[str, Any] | None = None,
    timeout_s: float = 20.0,
) -> BackendFact:
    """Return whether a backend runs the tiny model in a child process and answers correctly.

    Args:
        name: The backend.
        accelerator: The accelerator to run on.
        options: The machine's, as in ``open_backend``.
        timeout_s: When to kill the child; includes loading.

    Returns:
        The fact, with ``works`` and ``ms`` (median of one inference), or the ``reason`` why not.
    """
    version = backend_version(name)
    if version is None and LIBRARIES[name]:
        reason = f"{' or '.join(LIBRARIES[name][:2])} is not installed: {install_hint(name)}"
        return BackendFact(name=name, accelerator=accelerator, reason=reason)
    variant = Variant(id="tiny", backend=name, accelerator=accelerator)
    answer = _ask_child(variant, options, timeout_s)
    return BackendFact(
        name=name,
        version=answer.get("version") or version or "",
        accelerator=accelerator,
        works=bool(answer.get("works")),
        ms=answer.get("ms"),
        reason=str(answer.get("reason", "")),
    )


def _ask_child(variant: Variant, options: Mapping[str, Any] | None, timeout_s: float) -> dict[str, Any]:
    """Return the child's answer; if it died, the ``reason`` says how."""
    task = {"variant": msgspec.to_builtins(variant), "options": dict(options or {})}
    try:
        with Child("edgekit.backends.probe", keeps_log=True) as child:
            return child.ask(task, dict[str, Any], timeout_s)
    except EdgekitError as error:
        return {"reason": "; ".join(part for part in (error.message, *error.reasons, error.hint) if part)}
    except ChildFault as fault:
        words = child.last_words()
        if fault.code is None:
            return {"reason": f"hung: no answer in {timeout_s:g} s{words}"}
        return {"reason": f"{_manner(fault.code)}{words}; fix: {_way_out(fault.code)}"}


def _manner(code: int) -> str:
    return f"crashed with {signal_name(-code)}" if code < 0 else f"ended with code {code} and no answer"


def _way_out(code: int) -> str:
    if code == -signal.SIGILL:
        return "install a build of this library for this processor, it used an instruction that is missing"
    if code == -signal.SIGKILL:
        return "free some memory, it was probably killed for using too much"
    return "install another version of this library, or remove it"


def _do(task: dict[str, Any], _: object) -> dict[str, Any]:
    return _prove(msgspec.convert(task["variant"], Variant), task["options"])


def _prove(variant: Variant, options: Mapping[str, Any]) -> dict[str, Any]:
    row = accelerator(variant.accelerator)
    if row is not None and row.proof == "file":
        backend = open_backend(Path(row.proof_file), variant, _tiny_options(options))
        backend.run()
        backend.close()
        return {"works": True}
    if row is not None and row.proof == "none":
        return _open_device(variant, options)
    try:
        backend = open_backend(tiny_model(variant.backend), variant, _tiny_options(options))
    except ModelLoadError as refused:
        if variant.accelerator != "delegate":
            raise
        return {"works": True, "reason": f"{_NOT_PROVED}: {refused.message}"}
    times_ms = []
    for _ in range(_TIMED_RUNS):
        backend.view(backend.inputs[0].name)[...] = INPUTS
        begun = time.perf_counter()
        answer = backend.run()[backend.outputs[0].name].ravel().tolist()
        times_ms.append((time.perf_counter() - begun) * 1e3)
    ran_on, version = backend.accelerator, getattr(backend, "version", "")
    backend.close()
    if variant.backend != "null" and not _is_right(answer):
        reason = f"gave a wrong answer: expected {list(expected())}, got {answer}"
        return {"reason": reason, "version": version}
    return {
        "works": True,
        "ms": round(sorted(times_ms)[_TIMED_RUNS // 2], 4),
        "ran_on": ran_on,
        "version": version,
    }


def _is_right(answer: list[float]) -> bool:
    right = expected()
    return len(answer) == len(right) and all(
        abs(a - b) <= _TOLERANCE for a, b in zip(answer, right, strict=True)
    )


def _tiny_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the machine's options without the shapes of another model's inputs."""
    return {name: value for name, value in options.items() if name != "shapes"}


def _open_device(variant: Variant, options: Mapping[str, Any]) -> dict[str, Any]:
    """Open the device if that needs no model: there is no compiled one to run on it."""
    if variant.backend != "litert":
        return {"works": True, "reason": f"{_NOT_PROVED}: there is no small model compiled for it"}
    from edgekit.backends.litert import open_delegate

    open_delegate(variant, options)
    return {"works": True, "reason": f"{_NOT_PROVED}: the delegate opened the device, no model was run on it"}


if __name__ == "__main__":
    sys.exit(run_job(_do, dict[str, Any]))
