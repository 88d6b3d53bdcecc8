"""The supervisor's process: ``python -m edgekit.agent CONFIG STATE [--json] [--verbose]``.

``edgekit agent run`` checks everything and becomes this process, without the command line in memory.
"""

from __future__ import annotations

import logging
import sys
import types
import urllib
from pathlib import Path

from edgekit.base.left_out import import_msgspec


def leave_out_unused() -> None:
    """Keep out of this process what its libraries import and edgekit does not need; call it first.

    paho-mqtt imports ``urllib.request`` (1.4 MB, with the e-mail and HTTP packages) for the proxies of a
    library (PySocks) that edgekit does not use.
    """
    import_msgspec()
    stub = types.ModuleType("urllib.request", "Left out of the supervisor.")
    vars(stub)["getproxies"] = dict
    sys.modules["urllib.request"] = stub
    urllib.request = stub


def main(arguments: list[str]) -> int:
    """Run the agent until it is stopped; return the exit code."""
    leave_out_unused()
    from edgekit.agent.config import environment, load_agent_config
    from edgekit.agent.supervisor.supervisor import Supervisor
    from edgekit.base.logs import log_to_stderr
    from edgekit.core.errors import EdgekitError

    log_to_stderr(logging.DEBUG if "--verbose" in arguments else logging.INFO)
    config, state = (Path(argument) for argument in arguments[:2])
    try:
        supervisor = Supervisor(load_agent_config(config, state), environment())
        supervisor.run()
    except EdgekitError as error:
        print(error.render(), file=sys.stderr)
        return error.exit_code
    if supervisor.is_restarting:
        from edgekit.agent.launcher import launch_again

        return launch_again(arguments, has_parent=environment().launched == "parent")
    if "--json" in arguments:
        print('{"stopped": true}')
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
