"""What is done before any worker starts; it waits for child processes, so it runs on the jobs' thread."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from edgekit.agent.children import Survey, install, measure, survey
from edgekit.agent.config import PipelinePlan
from edgekit.agent.supervisor.egress import Outgoing
from edgekit.core.errors import EdgekitError
from edgekit.update.slots import Slots

logger = logging.getLogger(__name__)


def prepare(
    plans: Iterable[PipelinePlan], slots: Slots, outgoing: Outgoing, environment: Mapping[str, str]
) -> Survey:
    """Find out what this machine is, measure its bundles, give each model its first version.

    A first version that cannot be installed is told, and its pipeline waits for one.

    Raises:
        EdgekitError: It cannot be found out what this machine is.
    """
    found = survey(environment)
    for plan in plans:
        try:
            if plan.pinned is not None:
                measure(plan.pinned, environment, slots.state_dir)
            elif plan.initial is not None and slots.load(plan.managed).active is None:
                measure(plan.initial, environment, slots.state_dir)
                version = install(slots.state_dir, plan.managed, plan.initial, environment).version
                logger.info("installed %s %s as the first version", plan.managed, version)
        except EdgekitError as error:  # noqa: PERF203 - one pipeline's fault is not the others'
            logger.error("%s", error.render())  # noqa: TRY400 - the message says it all
            outgoing.failure(error, plan.name)
    return found
