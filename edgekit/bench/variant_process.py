"""Measures and checks variants, each in a child process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edgekit.core.errors import BackendError, InferenceError, ModelLoadError
from edgekit.core.select import reasons_against
from edgekit.core.spec import Facts, Profile, Variant
from edgekit.model.bundle import Bundle
from edgekit.model.choice import backend_options

_START_TIMEOUT_S = 120.0
_ANSWER_TIMEOUT_S = 60.0
_EVALUATE_TIMEOUT_S = 1800.0


class LabProcess:
    """A child process that holds one variant.

    Raises:
        ModelLoadError: The variant cannot be loaded here, or loading killed the process.
    """

    def __init__(self, bundle: Bundle, variant: Variant, profile: Profile, threads: int) -> None:
        self.variant = variant
        requests_read, self._requests = os.pipe()
        self._answers, answers_write = os.pipe()
        task = {
            "bundle": str(bundle.source if bundle.is_bare else bundle.root),
            "variant": variant.id,
            "options": backend_options(variant, profile, threads),
            "read": requests_read,
            "write": answers_write,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "edgekit.bench.variant_child", json.dumps(task)],
            pass_fds=(requests_read, answers_write),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(requests_read)
        os.close(answers_write)
        self._rest = b""
        try:
            self.loaded = self._answer(_START_TIMEOUT_S, ModelLoadError)
        except BackendError:
            self.close()
            raise

    def measure(self, seconds: float) -> list[float]:
        """Return the microseconds of each inference in a while of running.

        Raises:
            InferenceError: The model failed, or its process died.
        """
        self._ask({"do": "time", "seconds": seconds})
        answer = self._answer(_ANSWER_TIMEOUT_S + seconds, InferenceError)
        self.loaded["rss_mb"] = answer["rss_mb"]
        times: list[float] = answer["times_us"]
        return times

    def golden(self) -> list[dict[str, Any]]:
        """Return the outcome of each golden sample.

        Raises:
            InferenceError: The model failed, or its process died.
        """
        self._ask({"do": "golden"})
        outcomes: list[dict[str, Any]] = self._answer(_ANSWER_TIMEOUT_S, InferenceError)["golden"]
        return outcomes

    def evaluate(
        self, samples: Path, out: Path, sizes: Sequence[Sequence[int]] | None, *, in_order: bool = False
    ) -> None:
        """Run every sample of an NPZ of logical inputs and write what came out.

        Args:
            samples: Arrays (n, ...) by logical name, as golden inputs are.
            out: Gets the logical outputs, (n, ...); beside it, with ".items", the decoded items.
            sizes: Width and height of each source picture, for boxes in its pixels; empty for the
                model's own input; None to decode nothing.
            in_order: Hand the model's state from each sample to the next, in place of the samples' own.

        Raises:
            InferenceError: The model failed, or its process died.
        """
        pairs = None if sizes is None else [list(size) for size in sizes]
        files = {"samples": str(samples), "out": str(out)}
        self._ask({"do": "evaluate", **files, "sizes": pairs, "in_order": in_order})
        self._answer(_EVALUATE_TIMEOUT_S, InferenceError)

    def pre_ms(self) -> float:
        """Return the median milliseconds it takes to fill the input from an image's bytes.

        Raises:
            InferenceError: The process died.
        """
        self._ask({"do": "pre"})
        return float(self._answer(_ANSWER_TIMEOUT_S, InferenceError)["pre_ms"])

    def _ask(self, request: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):  # the answer says what became of the process
            os.write(self._requests, json.dumps(request).encode() + b"\n")

    def _answer(self, timeout_s: float, error: type[BackendError]) -> dict[str, Any]:
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, deadline - time.monotonic()))
            piece = os.read(self._answers, 1 << 20) if ready else b""
            if not piece:
                how = f"gave no answer in {timeout_s:g} s" if not ready else f"died ({self._obituary()})"
                raise error(f"variant {self.variant.id!r}: its process {how}")
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise error(f"variant {self.variant.id!r}: {answer['error']}", reasons=tuple(answer["reasons"]))
        return answer

    def _obituary(self) -> str:
        code = self._process.wait(timeout=10)
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def close(self) -> None:
        """End the process; safe to call twice."""
        for descriptor in (self._requests, self._answers):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self._requests = self._answers = -1
        self._process.kill()
        self._process.wait(timeout=10)


@contextlib.contextmanager
def open_lab(
    bundle: Bundle, variants: Sequence[Variant], facts: Facts, profile: Profile, threads: int
) -> Iterator[tuple[list[LabProcess], dict[str, str]]]:
    """Load every variant that may run here, each in its own process.

    Yields:
        The processes, and for each variant that has none, the reason.
    """
    labs: list[LabProcess] = []
    reasons: dict[str, str] = {}
    try:
        for variant in variants:
            against = reasons_against(variant, facts, profile)
            if against:
                reasons[variant.id] = "; ".join(against)
                continue
            try:
                labs.append(LabProcess(bundle, variant, profile, threads))
            except BackendError as cause:
                reasons[variant.id] = cause.message
        yield labs, reasons
    finally:
        for lab in labs:
            lab.close()
