"""A server's documents about itself: metadata, repository index, status, metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from edgekit.serve.metrics import STAGES, family, sample

if TYPE_CHECKING:
    from edgekit.core.spec import TensorSpec
    from edgekit.serve.body import Bodies
    from edgekit.serve.hosting import Row, Table
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


class Part(msgspec.Struct, frozen=True):
    """What one host says of its models: whether all answer, their states, and its metrics."""

    is_ready: bool
    models: list[dict[str, Any]]
    """The rows of ``/status``."""
    metrics: str = ""

    @classmethod
    def of_row(cls, row: Row) -> Part:
        """Return the part of a host that does not answer, from what the front knows of it."""
        model = {"name": row.name, "version": row.version, "state": row.state, "reason": row.reason}
        ready = sample("edgekit_model_ready", {"model": row.name, "version": row.version}, 0)
        return cls(not row.should_load, [model], "\n".join(family(*_READY, [ready])))


def own_part(models: Models, bodies: Bodies) -> Part:
    """Return this host's part."""
    return Part(models.is_ready, [entry.status() for entry in models], exposition(models, bodies))


def index(parts: list[Part], *, only_ready: bool) -> list[dict[str, str]]:
    """Return the repository's index: every model of the command line."""
    rows = (row for part in parts for row in part.models)
    return [
        {key: row[key] for key in ("name", "version", "state", "reason")}
        for row in rows
        if not only_ready or (row["state"] == "READY" and not row.get("stuck"))
    ]


def status_document(parts: list[Part], table: Table, server: dict[str, Any]) -> dict[str, Any]:
    """Return ``/status``: each model, the process that hosts it, the variant that runs, and why that one."""
    hosts = {(row.name, row.version): {"pid": row.pid, "restarts": row.restarts} for row in table.rows}
    rows = [row | hosts.get((row["name"], row["version"]), {}) for part in parts for row in part.models]
    return {"server": server, "ready": all(part.is_ready for part in parts), "models": rows}


def metrics_document(parts: list[Part], table: Table) -> str:
    """Return ``/metrics``: the parts' samples by family, and how often each host was restarted."""
    name = "edgekit_model_restarts_total"
    labels = [({"model": row.name, "version": row.version}, row.restarts) for row in table.rows]
    restarts = family(
        name, "counter", "Restarts of a model's process.", [sample(name, *each) for each in labels]
    )
    families: dict[str, list[str]] = {}
    for line in [line for part in parts for line in part.metrics.splitlines()] + restarts:
        if line.startswith("# HELP "):
            lines = families.setdefault(line, [])
        elif line not in lines:
            lines.append(line)
    return "\n".join(line for helped, lines in families.items() for line in (helped, *lines)) + "\n"


def exposition(models: Models, bodies: Bodies) -> str:
    """Return ``/metrics`` in the Prometheus text format."""
    entries = [(entry, _labels(entry)) for entry in models]
    own = entries[0][1] if entries else {}  # a host has one model
    lines = [
        *family(
            "edgekit_serve_held_bytes",
            "gauge",
            "Request bodies in memory.",
            [sample("edgekit_serve_held_bytes", own, bodies.held_bytes)],
        ),
        *family(
            "edgekit_serve_bodies_refused_total",
            "counter",
            "Requests refused because all bodies together were at their bound.",
            [sample("edgekit_serve_bodies_refused_total", own, bodies.refused)],
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


_READY = ("edgekit_model_ready", "gauge", "Whether the model answers.")
_GAUGES: tuple[tuple[str, str, str, Callable[[Entry], float]], ...] = (
    (*_READY, lambda e: e.is_ready),
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
