"""Operations of the local socket and commands of the fleet."""

from __future__ import annotations

import os
from typing import Any

import msgspec

from edgekit.agent.status import OUTBOX_FILE, Operation
from edgekit.agent.supervisor.commands import Action, text_argument
from edgekit.agent.supervisor.hosted_model import HostedModel
from edgekit.agent.supervisor.offers import Offers
from edgekit.agent.supervisor.parts import Parts
from edgekit.agent.supervisor.pipelines import Pipeline
from edgekit.agent.supervisor.reload import Reloader
from edgekit.agent.supervisor.updates import ModelUpdates
from edgekit.agent.supervisor.worker import Worker
from edgekit.agent.supervisor.worker_process import pss_mb, rss_mb
from edgekit.core.errors import UsageError
from edgekit.core.spec import AGENT
from edgekit.version import __version__


class Controls:
    """Actions and queries, used by both the local socket and the fleet; on the supervisor's thread only."""

    def __init__(self, parts: Parts, reloader: Reloader) -> None:
        self._parts, self._reloader = parts, reloader
        self.offers = Offers(parts, parts.config.state / "approved.json", self.rollback)

    def operations(self) -> dict[str, Operation]:
        """Return the socket's operations by name."""
        return {
            "status": lambda _request: self.status(),
            "ledger": self.ledger,
            "install": lambda _request: {"message": self.install()},
            "rollback": lambda request: {"message": self.rollback(request)},
            "restart": lambda request: {"message": self.restart(request)},
            "retry": lambda request: {"message": self.retry(request)},
            "switch": lambda request: {"message": self.switch(request)},
            "reload": lambda _request: self.reload(),
            "outbox": self.outbox,
            "acknowledge": self.acknowledge,
            "reports": lambda _request: {"taken": self._parts.measuring.host.take_reports()},
        }

    def commands(self) -> dict[str, Action]:
        """Return the fleet's commands by name."""
        return {
            "rollback": self.rollback,
            "restart": self.restart,
            "report": self.report,
            "retry": self.retry,
            "switch": self.switch,
            "measure": self._parts.measuring.take,
        }

    # -- actions

    def rollback(self, args: dict[str, Any]) -> str:
        """Return a model to its previous version; without a name, the only managed model.

        Raises:
            UsageError: There is no such model, or no previous version.
        """
        updates = self._model(text_argument(args, "model"))
        updates.revert(text_argument(args, "reason") or "requested")
        return f"{updates.model} goes back to its previous version"

    def install(self) -> str:
        """Take the bundle that was carried here.

        Raises:
            UsageError: There is none, or this device is not enrolled.
        """
        self._parts.fleet.take_carried()
        return "the agent checks its signatures now and tries it; see: edgekit agent status"

    def restart(self, args: dict[str, Any]) -> str:
        """Restart the worker of one pipeline, with what shares it, or every worker if none is named.

        Raises:
            UsageError: There is no such pipeline.
        """
        name = text_argument(args, "pipeline")
        pool = self._parts.pool
        if name and name not in pool.pipelines:
            raise UsageError(f"there is no pipeline {name!r}")
        chosen = [worker for worker in pool.workers.values() if not name or name in worker.pipelines]
        for worker in chosen:
            worker.restart()
        return f"restarts {', '.join(name for worker in chosen for name in worker.pipelines)}"

    def switch(self, args: dict[str, Any]) -> str:
        """Turn a pipeline ``on``, ``off``, to a profile, or to the schedule's (``auto``).

        Its worker does so, and says in an alert and in ``status`` what came of it.

        Raises:
            UsageError: There is no such pipeline, nothing runs it, or it is not said what to turn it to.
        """
        name, to = text_argument(args, "pipeline"), text_argument(args, "to")
        why = text_argument(args, "reason") or "requested"
        pipeline = self._parts.pool.pipelines.get(name)
        if pipeline is None:
            raise UsageError(f"there is no pipeline {name!r}")
        if not to:
            raise UsageError("to: want on, off, auto or a profile's name, got nothing")
        if not pipeline.turn(to, why):
            raise UsageError(f"pipeline {name!r} is not open: {pipeline.message or pipeline.state}")
        return f"pipeline {name} is asked to switch to {to}"

    def reload(self) -> dict[str, Any]:
        """Read the agent's file again; return the names of the pipelines that this starts, ends and changes.

        Raises:
            ConfigError: It is not valid, or cannot be changed while the agent runs.
        """
        what = self._reloader.reload()
        return {**msgspec.structs.asdict(what), "message": what.text()}

    def report(self, _: dict[str, Any]) -> str:
        """Send the reported state now."""
        self._parts.changed()
        return "reports"

    def retry(self, args: dict[str, Any]) -> str:
        """Allow a rejected version to be installed again.

        Raises:
            UsageError: There is no such model.
        """
        updates = self._model(text_argument(args, "model"))
        version = text_argument(args, "version")
        updates.retry(version)
        self._parts.want(is_new=True)
        return f"{updates.model}: {version or 'every rejected version'} may be tried again"

    def _model(self, name: str) -> ModelUpdates:
        models = self._parts.models
        if name in models:
            return models[name]
        own = [updates for key, updates in models.items() if key != AGENT]
        if not name and len(own) == 1:
            return own[0]
        known = ", ".join(models) or "none"
        if not name and own:
            raise UsageError(
                "want a model's name, since there are several", hint=f"this agent manages: {known}"
            )
        raise UsageError(f"there is no managed model {name!r}", hint=f"this agent manages: {known}")

    # -- queries

    def status(self) -> dict[str, Any]:
        """Return the document of ``edgekit agent status``."""
        parts = self._parts
        fleet, config = parts.fleet, parts.config
        enrolment = fleet.enrolment
        document: dict[str, Any] = msgspec.to_builtins(parts.refresh())
        pool = parts.pool
        for name, pipeline in pool.pipelines.items():
            document["pipelines"][name] |= _more_of(pipeline, pool.models_of(pipeline).get(""))
        workers = [
            worker_row(worker, document["pipelines"]) for worker in pool.workers.values() if worker.pid
        ]
        return document | {
            "agent": __version__,
            "device": enrolment.device if enrolment else config.name,
            "enrolled": enrolment is not None,
            "state_dir": str(config.state),
            "profile": fleet.survey.profile.id if fleet.survey else "",
            "uptime_s": round(parts.reactor.now_s() - parts.started_s, 1),
            "clock": parts.clock.quality,
            "link": fleet.link_state(),
            "pid": os.getpid(),
            "rss_mb": round(rss_mb(os.getpid()), 1),
            "workers": workers,
            "api": parts.address.urls if parts.address else [],
            "serving": parts.address.status() if parts.address else [],
            "measuring": parts.measuring.status(),
            "fallbacks": {
                **{
                    name: sum(model.totals[name] for model in pool.models)
                    for name in ("failovers", "returns", "failed_returns")
                },
                "restarts": sum(worker.restarts for worker in pool.workers.values())
                + sum(model.failures for model in pool.models)
                + sum(pipeline.failures for pipeline in pool.pipelines.values()),
            },
        }

    def outbox(self, _: dict[str, Any]) -> dict[str, Any]:
        """Write the outbox to a file below the state folder; return its path and the number of messages.

        Raises:
            StorageError: It cannot be written.
        """
        from edgekit.sync.carried import write_outbox

        path = self._parts.config.state / OUTBOX_FILE
        return {"file": str(path), "messages": write_outbox(self._parts.egress.outbox, path)}

    def acknowledge(self, request: dict[str, Any]) -> dict[str, Any]:
        """Free what the fleet has: whoever asks has checked its signature.

        Raises:
            UsageError: The request is not a boot and a whole number.
        """
        boot, watermark = text_argument(request, "boot"), request.get("watermark")
        if not isinstance(watermark, int):
            raise UsageError(f"watermark: want a whole number, got {watermark!r}")
        return {"is_ours": self._parts.egress.outbox.acknowledge(boot, watermark)}

    def ledger(self, request: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the newest 5000 ledger entries: what left the device and what was refused.

        Raises:
            UsageError: ``since_unix_s`` is not a whole number.
        """
        since = request.get("since_unix_s", 0)
        if not isinstance(since, int):
            raise UsageError(f"since_unix_s: want a whole number, got {since!r}")
        entries = self._parts.egress.ledger.entries(since)
        return [msgspec.to_builtins(entry) for entry in entries[-5000:]]


def _more_of(pipeline: Pipeline, model: HostedModel | None) -> dict[str, Any]:
    """Return what ``status`` says of a pipeline beside what is reported to the fleet."""
    running = pipeline.running
    return {
        **{key: getattr(running, key, "") for key in ("why", "backend", "accelerator")},
        "malformed": model.worker.malformed if model else 0,
        "excluded": model.excluded if model else {},
        "fallback": model.fallback if model else {},
        "rechecks": model.rechecks if model else {},
        "brokers": pipeline.brokers,
        "places": pipeline.places,
        "source": pipeline.source,
        "switch": pipeline.switch,
    }


def worker_row(worker: Worker, pipelines: dict[str, Any]) -> dict[str, Any]:
    """Return a worker's process, its models with their users, and its pipelines' rows with their names."""
    assert worker.pid is not None
    return {
        "name": worker.name,
        "pid": worker.pid,
        "recycled": worker.succession.recycled,
        "standby": worker.succession.state,
        "standby_failures": worker.succession.failures,
        "rss_mb": round(rss_mb(worker.pid), 1),
        "pss_mb": round(pss_mb(worker.pid), 1),
        "models": [model_row(model) for model in worker.models.values() if model.is_hosted],
        "pipelines": [{"name": name, **pipelines[name]} for name in worker.pipelines],
    }


def model_row(model: HostedModel) -> dict[str, Any]:
    """Return what a worker has open of a model, for whom, how much waits for it, and how fast it is."""
    running = model.running
    return {
        "model": running.model if running else model.plan.name,
        **{key: getattr(running, key, "") for key in ("version", "variant", "backend", "accelerator")},
        "users": [name for user in model.users.values() for name in user.names_on(model)],
        "fallback": model.fallback,
        "excluded": model.excluded,
        "queue": model.queue,
        "p95_ms": model.p95_ms,
    }
