"""The ``edgekit-fleet`` command."""
