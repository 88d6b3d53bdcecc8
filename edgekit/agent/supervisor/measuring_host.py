"""The supervisor as measurement jobs see it: whether the device is busy, the updater, the outbox."""

from __future__ import annotations

import logging

from edgekit.agent.measuring.order import hindrance
from edgekit.agent.supervisor.parts import Parts
from edgekit.bench.reports import take_reports
from edgekit.core.wire import MeasurementRecord
from edgekit.update.machine import State

logger = logging.getLogger(__name__)


class MeasuringHost:
    """Implements the host of ``Measuring`` on the supervisor's parts."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.fetch_to_measure = parts.fleet.fetch_to_measure

    def hindrance(self) -> str:
        """Return why nothing should be measured now; empty if measuring may start."""
        parts = self._parts
        survey = parts.fleet.survey
        return hindrance(
            {name: updates.reported().state for name, updates in parts.models.items()},
            {name: pipeline.reported() for name, pipeline in parts.pool.pipelines.items()},
            {name: pipeline.plan.budget_ms for name, pipeline in parts.pool.pipelines.items()},
            parts.sensors,
            survey.profile.limits.temperature_c if survey else 0.0,
        )

    def is_updating(self) -> bool:
        """Return whether an update is in progress."""
        states = (updates.reported().state for updates in self._parts.models.values())
        return any(state != State.IDLE.value for state in states)

    def tell(self, record: MeasurementRecord) -> None:
        """Put a record into the outbox, durably."""
        self._parts.egress.put(record)
        self._parts.egress.outbox.flush()

    def take_reports(self) -> int:
        """Move measurements of other processes into the outbox; return how many."""
        egress = self._parts.egress
        try:
            return take_reports(self._parts.config.state, egress.put, egress.outbox.flush)
        except OSError as cause:
            logger.warning("reports cannot be read and stay on disk: %s", cause)
            return 0
