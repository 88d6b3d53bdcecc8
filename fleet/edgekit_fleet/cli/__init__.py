"""The ``edgekit-fleet`` command: ``serve`` on the fleet server, the other commands from anywhere.

``main`` has the table of commands, one module for each. A command names its fleet by ``--data DIR`` on
the fleet's own machine, or by ``--fleet URL --token T``; ``target`` turns that into a client. A command
returns one report, printed as text or, with ``--json``, as one JSON document.

    edgekit-fleet serve --data ./fleet-data
    edgekit-fleet devices --data ./fleet-data --json
"""
