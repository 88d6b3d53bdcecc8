"""Runs variants for measuring and checking, each in a child process."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.base.child import Child, ChildFault
from edgekit.core.errors import BackendError, EdgekitError, InferenceError, ModelLoadError
from edgekit.core.select import reasons_against
from edgekit.core.spec import Facts, Profile, Variant
from edgekit.model.bundle import Bundle
from edgekit.model.choice import backend_options
from edgekit.model.golden import GoldenOutcome, require_golden

_START_TIMEOUT_S = 120.0
_ANSWER_TIMEOUT_S = 60.0
_EVALUATE_TIMEOUT_S = 1800.0


class VariantProcess:
    """A child process with one loaded variant.

    ``loaded``: milliseconds of loading and of the first inference, the accelerator, the process's MB.

    Raises:
        ModelLoadError: The variant cannot be loaded here.
        InferenceError: The first inference failed, or loading crashed or hung the process.
    """

    def __init__(self, bundle: Bundle, variant: Variant, profile: Profile, threads: int) -> None:
        self.variant, self._manifest = variant, bundle.manifest
        task = {
            "bundle": str(bundle.source if bundle.is_bare else bundle.root),
            "variant": variant.id,
            "options": backend_options(variant, profile, threads),
        }
        words = (str(task["bundle"]), variant.id)  # shown in process lists
        self._child = Child("edgekit.bench.variant_child", words, log=subprocess.DEVNULL)
        try:
            self.loaded = self._send(task, _START_TIMEOUT_S, ModelLoadError)
        except BackendError:
            self.close()
            raise

    def measure(self, seconds: float) -> list[float]:
        """Run for some seconds; return the microseconds of each inference.

        Raises:
            InferenceError: The model failed, or its process died.
        """
        answer = self._ask("measure", _ANSWER_TIMEOUT_S + seconds, seconds=seconds)
        self.loaded["rss_mb"] = answer["rss_mb"]
        return list(answer["times_us"])

    def golden(self) -> list[GoldenOutcome]:
        """Return the outcome of each golden sample.

        Raises:
            InferenceError: The model failed, or its process died.
        """
        rows = self._ask("golden")["golden"]
        return [GoldenOutcome(sample, float(difference), atol) for sample, difference, atol in rows]

    def require_golden(self) -> None:
        """Check that the variant reproduces the golden samples.

        Raises:
            GoldenError: It does not.
            InferenceError: The model failed, or its process died.
        """
        require_golden(self._manifest, self.golden())

    def evaluate(
        self, samples: Path, out: Path, sizes: Sequence[Sequence[int]] | None, *, in_order: bool = False
    ) -> None:
        """Run every sample of an NPZ of logical inputs, and write the outputs.

        Args:
            samples: Arrays (n, ...) by logical name, as golden inputs are.
            out: Gets the logical outputs, (n, ...); with ".items" added, a file gets the decoded items.
            sizes: Width and height of each source image, for boxes in its pixels; empty for the model's own
                input; None to decode nothing.
            in_order: Pass the model's state on from sample to sample, in place of the samples' own.

        Raises:
            InferenceError: The model failed, or its process died.
        """
        files = {"samples": str(samples), "out": str(out)}
        self._ask("evaluate", _EVALUATE_TIMEOUT_S, **files, sizes=sizes, in_order=in_order)

    def synthetic(self, out: Path) -> None:
        """Run on the same synthetic input as every variant; write the float outputs to an NPZ.

        Raises:
            InferenceError: The model failed, or its process died.
        """
        self._ask("synthetic", out=str(out))

    def pre_ms(self) -> float:
        """Return the median milliseconds to fill the input from an image; 0 if it is not an image.

        Raises:
            InferenceError: The process died.
        """
        return float(self._ask("pre")["pre_ms"])

    def _ask(self, action: str, timeout_s: float = _ANSWER_TIMEOUT_S, **arguments: Any) -> dict[str, Any]:
        return self._send({"do": action, **arguments}, timeout_s, InferenceError)

    def _send(self, request: Any, timeout_s: float, otherwise: type[BackendError]) -> dict[str, Any]:
        try:
            return self._child.ask(request, dict[str, Any], timeout_s)
        except ChildFault as fault:
            raise InferenceError(f"variant {self.variant.id!r}: its process {fault}") from fault
        except EdgekitError as error:
            kind = InferenceError if isinstance(error, InferenceError) else otherwise
            message = f"variant {self.variant.id!r}: {error.message}"
            raise kind(message, reasons=error.reasons, hint=error.hint) from error

    def close(self) -> None:
        """End the process; safe to call twice."""
        self._child.close()


@dataclass
class VariantProcesses:
    """The loaded variants, each in its process, and why others are not.

    ``rejected``: they do not belong on this machine. ``unopened``: their runtime cannot open them.
    ``failed``: they crashed, hung, or failed their first inference.
    """

    processes: list[VariantProcess] = field(default_factory=list)
    rejected: dict[str, str] = field(default_factory=dict)
    unopened: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


@contextlib.contextmanager
def open_processes(
    bundle: Bundle, variants: Sequence[Variant], facts: Facts, profile: Profile, threads: int
) -> Iterator[VariantProcesses]:
    """Load every variant that may run here, each in its own process; close them on exit."""
    loaded = VariantProcesses()
    try:
        for variant in variants:
            against = reasons_against(variant, facts, profile)
            if against:
                loaded.rejected[variant.id] = "; ".join(against)
                continue
            try:
                loaded.processes.append(VariantProcess(bundle, variant, profile, threads))
            except InferenceError as cause:
                loaded.failed[variant.id] = cause.message
            except BackendError as cause:
                loaded.unopened[variant.id] = cause.message
        yield loaded
    finally:
        for process in loaded.processes:
            process.close()
