"""A server's documents about itself: metadata, repository index, status, metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from edgekit.base.exposition import family, sample
from edgekit.serve.errors import HttpError
from edgekit.serve.metrics import STAGES
from edgekit.serve.oip import DEFAULT_PRIORITY, PRIORITIES

if TYPE_CHECKING:
    from edgekit.core.spec import TensorSpec
    from edgekit.serve.body import Bodies
    from edgekit.serve.hosting import Row, Table
    from edgekit.serve.models import Entry, Models

EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "logging",
    "model_configuration",
    "model_repository",
    "schedule_policy",
    "sequence",
    "statistics",
    "system_shared_memory",
    "trace",
)


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


def config_document(entry: Entry) -> dict[str, Any]:
    """Return a model's configuration as Triton's clients read it.

    Source: Triton's protocol/model_config.proto; every version that was named is served.

    Raises:
        HttpError: 503: it is not loaded.
    """
    servable = entry.require()
    runtime, _, _ = servable.platform.partition("_")
    joint = entry.batching.joint
    inputs = [
        _configured(spec) | {"optional": spec.name in servable.optional_inputs} for spec in servable.inputs
    ]
    batching = {"max_queue_delay_microseconds": 0, "preferred_batch_size": [joint.most_rows] if joint else []}
    levels = {"priority_levels": PRIORITIES, "default_priority_level": DEFAULT_PRIORITY}
    scheduling: dict[str, Any] = (
        {"sequence_batching": {"max_sequence_idle_microseconds": entry.sequences.idle_us}}
        if servable.states
        else {"dynamic_batching": {**batching, **levels}}
    )
    if servable.steps:
        scheduling = {"ensemble_scheduling": {"step": list(servable.steps)}}
    return {
        "name": entry.offer.name,
        "platform": servable.platform,
        "backend": runtime,
        "version_policy": {"all": {}},
        "max_batch_size": 0,
        "input": inputs,
        "output": [_configured(spec) for spec in servable.outputs],
        "instance_group": [
            {"name": row["name"], "count": 1} for row in entry.replicas() or [{"name": servable.variant}]
        ],
        **scheduling,
        "response_cache": {"enable": entry.cache is not None},
        "parameters": {"variant": {"string_value": servable.variant}},
    }


def _configured(spec: TensorSpec) -> dict[str, Any]:
    kind = "STRING" if spec.datatype == "BYTES" else spec.datatype
    return {"name": spec.name, "data_type": f"TYPE_{kind}", "dims": list(spec.shape)}


class Part(msgspec.Struct, frozen=True):
    """What one host says of its models: whether all answer, their states, metrics and statistics."""

    is_ready: bool
    models: list[dict[str, Any]]
    """The rows of ``/status``."""
    metrics: str = ""
    statistics: list[dict[str, Any]] = []

    @classmethod
    def of_row(cls, row: Row) -> Part:
        """Return the part of a host that does not answer, from what the front knows of it."""
        model = {"name": row.name, "version": row.version, "state": row.state, "reason": row.reason}
        ready = sample("edgekit_model_ready", {"model": row.name, "version": row.version}, 0)
        return cls(not row.should_load, [model], "\n".join(family(*_READY, [ready])))


def own_part(models: Models, bodies: Bodies) -> Part:
    """Return this host's part."""
    return Part(
        models.is_ready,
        [entry.status() for entry in models],
        exposition(models, bodies) + models.more_metrics(),
        [_statistics(entry) for entry in models],
    )


def statistics_document(parts: list[Part], model: str, version: str) -> dict[str, Any]:
    """Return the statistics of all models, of one, or of one of its versions.

    Raises:
        HttpError: 404: there is no such model or version.
    """
    rows = [row for part in parts for row in part.statistics]
    rows = [row for row in rows if model in ("", row["name"]) and version in ("", row["version"])]
    if model and not rows:
        raise HttpError(404, f"there is no model {model[:64]!r} {version[:32]!r}")
    return {"model_stats": rows}


def _statistics(entry: Entry) -> dict[str, Any]:
    """Return one model's row.

    Source: Triton's protocol/extension_statistics.md.
    """
    meter, counts = entry.meter, entry.lane.counts
    stages = {name: (stage.count, stage.sum_s) for name, stage in meter.stages.items()}
    failed = sum(count for status, count in meter.answers.items() if status != 200)
    times = {
        "success": (meter.answers.get(200, 0), stages["total"][1] - meter.failed_s),
        "fail": (failed, meter.failed_s),
        "queue": stages["queue"],
        "compute_input": stages["pre"],
        "compute_infer": stages["infer"],
        "compute_output": stages["post"],
        "cache_hit": (meter.hits, meter.hit_s),
        "cache_miss": (meter.misses, meter.miss_s),
    }
    return {
        "name": entry.offer.name,
        "version": entry.offer.version,
        "last_inference": meter.last_unix_ms,
        "inference_count": stages["infer"][0],
        "execution_count": stages["infer"][0] - counts.batched + counts.batches,
        "inference_stats": {
            name: {"count": count, "ns": int(seconds * 1e9)} for name, (count, seconds) in times.items()
        },
        "batch_stats": [],
    }


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
    counts = [
        *_by_model(table, "restarts", "Restarts of a model's process."),
        *_by_model(table, "recycled", "How often a model's process was replaced as its memory grew."),
    ]
    families: dict[str, list[str]] = {}
    for line in [line for part in parts for line in part.metrics.splitlines()] + counts:
        if line.startswith("# HELP "):
            lines = families.setdefault(line, [])
        elif line not in lines:
            lines.append(line)
    return "\n".join(line for helped, lines in families.items() for line in (helped, *lines)) + "\n"


def _by_model(table: Table, count: str, text: str) -> list[str]:
    name = f"edgekit_model_{count}_total"
    rows = [({"model": row.name, "version": row.version}, getattr(row, count)) for row in table.rows]
    return family(name, "counter", text, [sample(name, *each) for each in rows])


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
    rows = [(labels, _statistics(entry)) for entry, labels in entries]
    for name, kind, help_text, read_row in _TRITONS:
        lines += family(name, kind, help_text, (sample(name, labels, read_row(row)) for labels, row in rows))
    lines += family("edgekit_shadow_total", "counter", _SHADOW_HELP, _shadowed(entries))
    lines += family(
        "edgekit_cancelled_total", "counter", "Requests whose client hung up.", _cancelled(entries)
    )
    for name, kind, help_text, key in _REPLICAS:
        of_replicas = [
            sample(name, {**labels, "replica": row["name"]}, row[key])
            for entry, labels in entries
            for row in entry.replicas()
        ]
        lines += family(name, kind, help_text, of_replicas) if of_replicas else ()
    return "\n".join(lines) + "\n"


_SHADOW_HELP = "Requests that a version in the shadow was to be asked too."
_READY = ("edgekit_model_ready", "gauge", "Whether the model answers.")
_GAUGES: tuple[tuple[str, str, str, Callable[[Entry], float]], ...] = (
    (*_READY, lambda e: e.is_ready),
    ("edgekit_queue_depth", "gauge", "Requests that wait for the model.", lambda e: e.lane.depth),
    ("nv_inference_pending_request_count", "gauge", "Requests that wait.", lambda e: e.lane.depth),
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
    ("edgekit_sequences", "gauge", "Open sequences.", lambda e: len(e.sequences)),
    (
        "edgekit_sequences_forgotten_total",
        "counter",
        "Sequences that were idle for too long, or whose model was replaced.",
        lambda e: e.sequences.forgotten,
    ),
    (
        "edgekit_cache_bytes",
        "gauge",
        "Memory of the kept answers.",
        lambda e: e.cache.held_bytes if e.cache else 0,
    ),
    (
        "edgekit_cache_stale_total",
        "counter",
        "Requests answered by a stale answer, which was made anew after it.",
        lambda e: e.meter.stale_hits,
    ),
    (
        "edgekit_returns_total",
        "counter",
        "Lost variants that work again and run.",
        lambda e: e.returns,
    ),
)


_REPLICAS = (
    ("edgekit_replica_ready", "gauge", "Whether a replica takes requests.", "ready"),
    ("edgekit_replica_outstanding", "gauge", "Requests that wait for a replica or run on it.", "outstanding"),
    ("edgekit_replica_answered_total", "counter", "Requests that a replica answered.", "answered"),
    (
        "edgekit_replica_moved_total",
        "counter",
        "Requests of a replica that another one had to run.",
        "moved",
    ),
    (
        "edgekit_replica_lost_total",
        "counter",
        "How often a replica was taken out: lost, hanging or wrong.",
        "losses",
    ),
    ("edgekit_replica_returns_total", "counter", "How often a replica came back.", "returns"),
)


def _micros(stage: str) -> Callable[[dict[str, Any]], float]:
    return lambda row: row["inference_stats"][stage]["ns"] // 1000


def _count(stage: str) -> Callable[[dict[str, Any]], float]:
    return lambda row: row["inference_stats"][stage]["count"]


# Source: Triton's user guide, "Metrics": dashboards and scaling rules that know Triton know these.
_TRITONS: tuple[tuple[str, str, str, Callable[[dict[str, Any]], float]], ...] = (
    (
        "nv_inference_request_success",
        "counter",
        "Requests answered.",
        _count("success"),
    ),
    (
        "nv_inference_request_failure",
        "counter",
        "Requests refused or failed.",
        _count("fail"),
    ),
    ("nv_inference_count", "counter", "Inferences.", lambda row: row["inference_count"]),
    ("nv_inference_exec_count", "counter", "Runs of the model.", lambda row: row["execution_count"]),
    ("nv_inference_request_duration_us", "counter", "Time of answered requests.", _micros("success")),
    ("nv_inference_queue_duration_us", "counter", "Time in the queue.", _micros("queue")),
    ("nv_inference_compute_input_duration_us", "counter", "Time before the model.", _micros("compute_input")),
    ("nv_inference_compute_infer_duration_us", "counter", "Time in the model.", _micros("compute_infer")),
    ("nv_inference_compute_output_duration_us", "counter", "Time after it.", _micros("compute_output")),
    ("nv_cache_num_hits_per_model", "counter", "Requests answered by kept answers.", _count("cache_hit")),
    ("nv_cache_num_misses_per_model", "counter", "Requests without a kept answer.", _count("cache_miss")),
    ("nv_cache_hit_duration_per_model", "counter", "Time of hits, in us.", _micros("cache_hit")),
    ("nv_cache_miss_duration_per_model", "counter", "Time that misses added, in us.", _micros("cache_miss")),
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


def _shadowed(entries: Iterable[tuple[Entry, dict[str, str]]]) -> Iterator[str]:
    for entry, labels in entries:
        if (counts := entry.shadow) is not None:
            own = {**labels, "shadow": counts.version}
            outcomes = {"agreed": counts.pairs - counts.disagreed, "disagreed": counts.disagreed}
            outcomes |= {"failed": counts.failed, "skipped": counts.skipped}
            for outcome, count in outcomes.items():
                yield sample("edgekit_shadow_total", {**own, "outcome": outcome}, count)
