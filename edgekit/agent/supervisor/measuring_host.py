"""What measurement jobs need of the supervisor: is the device busy, the updater, the outbox."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from edgekit.agent.measuring.order import MeasureOrder, hindrance
from edgekit.agent.supervisor.parts import Parts
from edgekit.bench.reports import take_reports
from edgekit.core.errors import EdgekitError
from edgekit.core.wire import MeasurementRecord
from edgekit.update.contract import UpdaterResult
from edgekit.update.machine import State

logger = logging.getLogger(__name__)


class MeasuringHost:
    """The supervisor as ``Measuring`` uses it.

    Args:
        parts: The supervisor's parts, used on its thread only.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def hindrance(self) -> str:
        """Return why nothing should be measured now; empty where nothing speaks against it."""
        parts = self._parts
        survey = parts.fleet.survey
        return hindrance(
            {name: updates.reported().state for name, updates in parts.models.items()},
            {pipeline.name: pipeline.reported() for pipeline in parts.pipelines},
            {plan.name: plan.budget_ms for plan in parts.config.pipelines},
            parts.sensors,
            survey.profile.limits.temperature_c if survey else 0.0,
        )

    def is_updating(self) -> bool:
        """Return whether an update is under way."""
        states = (updates.reported().state for updates in self._parts.models.values())
        return any(state != State.IDLE.value for state in states)

    def fetch_to_measure(
        self,
        order: MeasureOrder,
        area: Path,
        max_bytes: int,
        timeout_s: float,
        done: Callable[[UpdaterResult | EdgekitError], None],
    ) -> None:
        """Have the updater bring a bundle below ``area``; ``done`` is called on the reactor."""
        self._parts.fleet.fetch_to_measure(order, area, max_bytes, timeout_s, done)

    def tell(self, record: MeasurementRecord) -> None:
        """Put a record into the outbox, durably."""
        self._parts.outgoing.put(record)
        self._parts.outgoing.outbox.flush()

    def take_reports(self) -> int:
        """Put measurements that other processes left into the outbox; return how many."""
        outgoing = self._parts.outgoing
        try:
            return take_reports(self._parts.config.state, outgoing.put, outgoing.outbox.flush)
        except OSError as cause:
            logger.warning("reports stay where they are: %s", cause)
            return 0
