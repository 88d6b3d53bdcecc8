"""Reads the agent's file again, and changes only what differs from what runs."""

from __future__ import annotations

import logging
import subprocess
import sys

import msgspec

from edgekit.agent.config import AgentConfig, load_agent_config, managed_models, worker_environment
from edgekit.agent.supervisor.parts import Parts
from edgekit.agent.supervisor.prepare import exclusive_of, prepare_models
from edgekit.core.errors import ConfigError, UsageError
from edgekit.core.spec import AGENT

logger = logging.getLogger(__name__)

_FIXED = ("state", "name", "intervals", "outbox", "limits", "serve")
"""What an agent reads once, at its start."""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """The names of the pipelines that a reload starts, ends, and ends to start them anew."""

    started: tuple[str, ...]
    ended: tuple[str, ...]
    changed: tuple[str, ...]

    def text(self) -> str:
        """Return it in words."""
        words = (("starts", self.started), ("ends", self.ended), ("changes", self.changed))
        return "; ".join(f"{verb} {', '.join(names)}" for verb, names in words if names) or "nothing differs"


def difference(old: AgentConfig, new: AgentConfig) -> Difference:
    """Return what a reload changes.

    Raises:
        ConfigError: Something differs that an agent reads only at its start.
    """
    fixed = [f"[{name}]" for name in _FIXED if getattr(old, name) != getattr(new, name)]
    if fixed:
        raise ConfigError(
            f"{new.path}: {', '.join(fixed)} differs, and is read only at a start; nothing is changed",
            hint="restart the agent, or put the old values back",
        )
    before = {plan.name: plan for plan in old.pipelines}
    after = {plan.name: plan for plan in new.pipelines}
    return Difference(
        started=tuple(name for name in after if name not in before),
        ended=tuple(name for name in before if name not in after),
        changed=tuple(name for name in after if name in before and after[name] != before[name]),
    )


class Reloader:
    """Reloads on request, and on SIGHUP; on the supervisor's thread only."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._children: list[subprocess.Popen[bytes]] = []

    def reload(self) -> Difference:
        """Read the file again, and end, start or change only the pipelines that differ.

        New models are prepared first, in the background.

        Raises:
            ConfigError: It is not valid, or differs in what is read only at the start; nothing is changed.
            UsageError: A model that no pipeline names any more is being updated.
        """
        old = self._parts.config
        assert old.path is not None
        return self.take(load_agent_config(old.path, old.state))

    def take(self, new: AgentConfig) -> Difference:
        """End, start or change the pipelines in which a configuration differs; raises as ``reload``."""
        parts = self._parts
        what = difference(parts.config, new)
        named = managed_models(new.pipelines)
        for name, updates in parts.models.items():
            if name not in (*named, AGENT) and not updates.is_idle:
                raise UsageError(f"an update of {name} is under way", hint="reload when it has ended")
        logger.info("reload: %s", what.text())
        parts.config = new
        parts.egress.guard(new.pipelines)
        fresh = [plan for plan in new.pipelines if plan.name in (*what.started, *what.changed)]
        if parts.fleet.survey is not None:  # else preparation is still to come, for all
            parts.jobs.submit(
                lambda: prepare_models(
                    fresh, parts.slots, parts.egress, worker_environment(parts.config.state)
                ),
                lambda _: self._apply(),
            )
        return what

    def _apply(self) -> None:
        """Run the pipelines of the configuration, and keep the models that they name."""
        parts, plans = self._parts, self._parts.config.pipelines
        new = parts.add_models(parts.config)
        parts.pool.apply(plans, exclusive_of(plans, parts.slots, parts.fleet.survey))
        for updates in new:
            updates.resume()
        for name in parts.models.keys() - {*managed_models(plans), AGENT}:
            del parts.models[name]
        parts.want(is_new=False)
        parts.changed()

    def begin(self) -> None:
        """Have ``edgekit agent reload`` check every pipeline in its own process, and then ask this one."""
        config = self._parts.config
        words = ["agent", "reload", "--config", str(config.path), "--state", str(config.state)]
        self._children.append(subprocess.Popen([sys.executable, "-m", "edgekit.cli.main", *words]))

    def tick(self) -> None:
        """Alert an operator of a reload by signal that failed. Call it each second."""
        for child in [child for child in self._children if child.poll() is not None]:
            self._children.remove(child)
            if child.returncode:
                text = "the configuration was not reloaded, and runs as before; the log says why"
                self._parts.egress.alert("error", "agent.not_reloaded", text)
