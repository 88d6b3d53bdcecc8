"""The commands ``edgekit optimize`` and ``edgekit zoo``.

``edgekit`` finds them by the entry-point group ``edgekit.commands``, one module each; a device without this
distribution has neither, and its command line says what to install. In: a module's ``add_arguments`` gets
argparse's parser, its ``run`` the parsed arguments. Out: a ``Report``, printed as text or with ``--json``.
Example::

    report = zoo.run(parser.parse_args(["build", "imu-exercise", "-o", "bundles"]))
"""
