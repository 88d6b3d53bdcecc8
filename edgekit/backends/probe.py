"""Prove a backend by running a model in a child process, where a crash is a reason and not our death.

A library may import and then abort, crash or hang: an old Edge TPU library does with a newer
runtime, and one real model makes LiteRT abort the process.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgekit.backends import LIBRARIES, backend_version, open_backend
from edgekit.backends.tiny import INPUTS, expected, tiny_model
from edgekit.base.accelerators import accelerator
from edgekit.base.child import Child, ChildFault, run_job, signal_name
from edgekit.base.install_hint import install_hint
from edgekit.core.errors import EdgekitError, ModelLoadError
from edgekit.core.spec import AcceleratorKind, BackendFact, BackendName, Variant

if TYPE_CHECKING:
    from collections.abc import Mapping

_TIMED_RUNS = 20
_TOLERANCE = 0.05  # the tiny model's numbers are whole and under 16, exact even in bf16
_LAST_WORDS_BYTES = 4096
_NOT_PROVED = "present, not proved"


def prove(
    name: BackendName,
    accelerator: AcceleratorKind = "cpu",
    options: Mapping[str, Any] | None = None,
    timeout_s: float = 20.0,
) -> BackendFact:
    """Load and run the tiny model in a child process, check its answer, and measure it.

    Args:
        name: The backend.
        accelerator: What it is to run on.
        options: The machine's options for this backend, as ``open_backend`` takes them.
        timeout_s: How long the child may take, loading included; then it is killed.

    Returns:
        The fact, with ``works`` and ``ms`` (median of one inference), or with the ``reason`` why not.
    """
    version = backend_version(name)
    if version is None and LIBRARIES[name]:
        reason = f"{' or '.join(LIBRARIES[name][:2])} is not installed: {install_hint(name)}"
        return BackendFact(name=name, accelerator=accelerator, reason=reason)
    variant = Variant(id="tiny", backend=name, accelerator=accelerator)
    answer = _ask_child({"do": "prove", "variant": msgspec.to_builtins(variant)}, options, timeout_s)
    return BackendFact(
        name=name,
        version=answer.get("version") or version or "",
        accelerator=accelerator,
        works=bool(answer.get("works")),
        ms=answer.get("ms"),
        reason=str(answer.get("reason", "")),
    )


def probe_model(
    path: Path, variant: Variant, options: Mapping[str, Any] | None = None, timeout_s: float = 60.0
) -> str | None:
    """Load a model file and run it once on zeros in a child process.

    Args:
        path: The variant's first file.
        variant: What to run and on which accelerator.
        options: The machine's options for this backend.
        timeout_s: How long the child may take; then it is killed.

    Returns:
        Why the model does not run here, or None where it does.
    """
    task = {"do": "probe", "path": str(path.resolve()), "variant": msgspec.to_builtins(variant)}
    return _ask_child(task, options, timeout_s).get("reason") or None


def _ask_child(task: dict[str, Any], options: Mapping[str, Any] | None, timeout_s: float) -> dict[str, Any]:
    """Run a task in a child; how it died becomes the answer's ``reason``."""
    task["options"] = dict(options or {})
    with tempfile.TemporaryFile() as log:
        try:
            with Child("edgekit.backends.probe", log=log) as child:
                return child.ask(task, dict[str, Any], timeout_s)
        except EdgekitError as error:
            return {"reason": "; ".join(part for part in (error.message, *error.reasons, error.hint) if part)}
        except ChildFault as fault:
            if fault.code is None:
                return {"reason": f"hung: no answer in {timeout_s:g} s{_last_words(log)}"}
            return {"reason": f"{_manner(fault.code)}{_last_words(log)}; fix: {_way_out(fault.code)}"}


def _manner(code: int) -> str:
    return f"crashed with {signal_name(-code)}" if code < 0 else f"ended with code {code} and no answer"


def _way_out(code: int) -> str:
    """Return what helps when a runtime library ends its process."""
    if code == -signal.SIGILL:
        return "install a build of this library for this processor, it used an instruction that is missing"
    if code == -signal.SIGKILL:
        return "free some memory, it was probably killed for using too much"
    return "install another version of this library, or remove it"


def _last_words(errors: Any) -> str:
    """Return the last line that the child wrote to standard error, as ``: ...``."""
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - _LAST_WORDS_BYTES))
    lines = errors.read().decode(errors="replace").split("\n")
    told = [line.strip() for line in lines if line.strip()]
    return f": {told[-1][-300:]}" if told else ""


def _do(task: dict[str, Any], _: object) -> dict[str, Any]:
    variant = msgspec.convert(task["variant"], Variant)
    return _prove(variant, task["options"]) if task["do"] == "prove" else _probe(task, variant)


def _probe(task: dict[str, Any], variant: Variant) -> dict[str, Any]:
    backend = open_backend(Path(task["path"]), variant, task["options"])
    backend.run()
    backend.close()
    return {"works": True}


def _prove(variant: Variant, options: Mapping[str, Any]) -> dict[str, Any]:
    row = accelerator(variant.accelerator)
    if row is not None and row.proof == "file":
        return _probe({"path": row.proof_file, "options": _tiny_options(options)}, variant)
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
        found = backend.run()[backend.outputs[0].name].ravel().tolist()
        times_ms.append((time.perf_counter() - begun) * 1e3)
    ran_on, version = backend.accelerator, getattr(backend, "version", "")
    backend.close()
    if variant.backend != "null" and not _is_right(found):
        return {"reason": f"gave a wrong answer: wanted {list(expected())}, got {found}", "version": version}
    return {
        "works": True,
        "ms": round(sorted(times_ms)[_TIMED_RUNS // 2], 4),
        "ran_on": ran_on,
        "version": version,
    }


def _is_right(found: list[float]) -> bool:
    wanted = expected()
    return len(found) == len(wanted) and all(
        abs(a - b) <= _TOLERANCE for a, b in zip(found, wanted, strict=True)
    )


def _tiny_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the machine's options without those that speak of another model's inputs."""
    return {name: value for name, value in options.items() if name != "shapes"}


def _open_device(variant: Variant, options: Mapping[str, Any]) -> dict[str, Any]:
    """Open the device where that needs no model; there is no compiled one at hand to run on it."""
    if variant.backend != "litert":
        return {"works": True, "reason": f"{_NOT_PROVED}: there is no small model compiled for it"}
    from edgekit.backends.litert import open_delegate

    open_delegate(variant, options)
    return {"works": True, "reason": f"{_NOT_PROVED}: the delegate opened the device, no model was run on it"}


if __name__ == "__main__":
    sys.exit(run_job(_do, dict[str, Any]))
