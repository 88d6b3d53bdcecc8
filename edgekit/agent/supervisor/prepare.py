"""Set-up before any worker starts."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from edgekit.agent.children import Survey, install, measure, survey
from edgekit.agent.config import PipelinePlan
from edgekit.agent.supervisor.egress import Egress
from edgekit.core.errors import EdgekitError
from edgekit.update.slots import Slots

logger = logging.getLogger(__name__)


def prepare(
    plans: Iterable[PipelinePlan], slots: Slots, egress: Egress, environment: Mapping[str, str]
) -> Survey:
    """Detect the hardware, measure the bundles, and install each model's first version.

    Waits for child processes. If a first version cannot be installed, an alert is sent and its pipeline waits
    for the fleet.

    Raises:
        EdgekitError: The hardware cannot be detected.
    """
    machine = survey(environment)
    for plan in plans:
        try:
            if plan.pinned is not None:
                measure(plan.pinned, environment, slots.state_dir)
            elif plan.initial is not None and slots.load(plan.managed).active is None:
                measure(plan.initial, environment, slots.state_dir)
                version = install(slots.state_dir, plan.managed, plan.initial, environment).version
                logger.info("installed %s %s as the first version", plan.managed, version)
        except EdgekitError as error:  # noqa: PERF203 - one pipeline's error must not stop the others
            logger.error("%s", error.render())  # noqa: TRY400 - the message says it all
            egress.failure(error, plan.name)
    return machine
