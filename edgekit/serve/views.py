"""A server's documents about itself: metadata, repository index, status, metrics."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from edgekit.serve.metrics import STAGES, family, sample

if TYPE_CHECKING:
    from edgekit.core.spec import TensorSpec
    from edgekit.serve.body import Bodies
    from edgekit.serve.models import Entry, Models

EXTENSIONS = ("binary_tensor_data", "model_repository")


def server_document(version: str) -> dict[str, Any]:
    """Return the server's metadata."""
    return {"name": "edgekit", "version": version, "extensions": list(EXTENSIONS)}


def model_document(entry: Entry, versions: list[str]) -> dict[str, Any]:
    """Return a model's metadata with its tensors.

    Raises:
        HttpError: 503: it is not loaded.
    """
    servable = entry.require()
    return {
        "name": entry.offer.name,
        "versions": versions,
        "platform": servable.platform,
        "inputs": [_tensor(spec) for spec in servable.inputs],
        "outputs": [_tensor(spec) for spec in servable.outputs],
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def index(models: Models, *, only_ready: bool) -> list[dict[str, str]]:
    """Return the repository's index: every model of the command line."""
    return [
        {
            "name": entry.offer.name,
            "version": entry.offer.version,
            "state": entry.state,
            "reason": entry.reason,
        }
        for entry in models
        if entry.is_ready or not only_ready
    ]


def status_document(models: Models, version: str, up_s: float) -> dict[str, Any]:
    """Return ``/status``: each model, the variant that runs, and why that one."""
    return {
        "server": {"version": version, "pid": os.getpid(), "up_s": round(up_s, 1)},
        "ready": models.is_ready,
        "models": [entry.status() for entry in models],
    }


def exposition(models: Models, bodies: Bodies) -> str:
    """Return ``/metrics`` in the Prometheus text format."""
    entries = [(entry, _labels(entry)) for entry in models]
    lines = [
        *family(
            "edgekit_serve_held_bytes",
            "gauge",
            "Request bodies in memory.",
            [sample("edgekit_serve_held_bytes", {}, bodies.held_bytes)],
        ),
        *family(
            "edgekit_serve_bodies_refused_total",
            "counter",
            "Requests refused because all bodies together were at their bound.",
            [sample("edgekit_serve_bodies_refused_total", {}, bodies.refused)],
        ),
        *_durations(entries),
        *family("edgekit_requests_total", "counter", "Inference requests by answer.", _answers(entries)),
    ]
    for name, kind, help_text, read in _GAUGES:
        samples = (sample(name, labels, read(entry)) for entry, labels in entries)
        lines += family(name, kind, help_text, samples)
    lines += family(
        "edgekit_cancelled_total", "counter", "Requests whose client hung up.", _cancelled(entries)
    )
    return "\n".join(lines) + "\n"


_GAUGES: tuple[tuple[str, str, str, Callable[[Entry], float]], ...] = (
    ("edgekit_model_ready", "gauge", "Whether the model answers.", lambda e: e.is_ready),
    ("edgekit_queue_depth", "gauge", "Requests that wait for the model.", lambda e: e.lane.depth),
    ("edgekit_shed_total", "counter", "Requests refused at once: overload.", lambda e: e.lane.counts.shed),
    (
        "edgekit_deadline_missed_total",
        "counter",
        "Requests given up because their timeout passed.",
        lambda e: e.lane.counts.deadline_missed,
    ),
    (
        "edgekit_failovers_total",
        "counter",
        "Lost accelerators replaced by another variant.",
        lambda e: e.failovers,
    ),
    (
        "edgekit_returns_total",
        "counter",
        "Lost variants that work again and run.",
        lambda e: e.returns,
    ),
)


def _labels(entry: Entry) -> dict[str, str]:
    return {"model": entry.offer.name, "version": entry.offer.version}


def _durations(entries: Iterable[tuple[Entry, dict[str, str]]]) -> list[str]:
    name = "edgekit_inference_duration_seconds"
    samples = (
        line
        for entry, labels in entries
        for stage in STAGES
        for line in entry.meter.stages[stage].lines(name, {**labels, "stage": stage})
    )
    return family(name, "histogram", "Time of a request, and of its stages.", samples)


def _answers(entries: Iterable[tuple[Entry, dict[str, str]]]) -> Iterator[str]:
    for entry, labels in entries:
        for status, count in sorted(entry.meter.answers.items()):
            yield sample("edgekit_requests_total", {**labels, "code": str(status)}, count)


def _cancelled(entries: Iterable[tuple[Entry, dict[str, str]]]) -> Iterator[str]:
    for entry, labels in entries:
        counts = entry.lane.counts
        for when, count in (("queued", counts.cancelled_queued), ("running", counts.cancelled_running)):
            yield sample("edgekit_cancelled_total", {**labels, "when": when}, count)
