"""The ``edgekit`` command."""
