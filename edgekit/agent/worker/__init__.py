"""The process that runs one pipeline: source, model, sinks.

In: a ``Run`` message with the pipeline and its bundle, then ``Swap``, ``Keep`` and ``Stop``, over a socket
from the supervisor. Out: ``Started``, progress each second, events, ledger entries, and how it ended.
Native code runs only here, so a crash costs one process, which the supervisor restarts. ``runner`` also
runs a pipeline without an agent:

    ran = run_pipeline(Path("door.toml"), frames=100)
    print(ran.document["fps"])
"""
