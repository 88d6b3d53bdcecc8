"""The always-on process of a device: runs workers, updates models, keeps the link to the fleet.

In: ``agent.toml`` (parsed to ``AgentConfig``), desired states and commands of the fleet, requests on the
local socket. Out: records and metrics through ``egress``, the reported state, answers to
``edgekit agent status``. One thread, the reactor, owns everything here. NumPy, runtimes and trust
libraries are imported only in child processes, so this process stays below 30 MB.

    config = load_agent_config(Path("agent.toml"))
    Supervisor(config, environment()).run()  # until SIGTERM or SIGINT
"""
