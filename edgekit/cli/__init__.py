"""The ``edgekit`` command: one module per subcommand, with ``add_arguments(parser)`` and ``run(arguments)``.

In: the words of the command line. Out: a ``Report`` (a JSON document, text, an exit code) that
``base.command_line`` prints. ``main`` has the table of commands; other distributions add to it by entry
points (``installed``). Commands import what they need when they run, so ``--help`` stays fast.

    from edgekit.cli.main import main
    code = main(["run", "door.toml", "--frames", "100"])
"""
