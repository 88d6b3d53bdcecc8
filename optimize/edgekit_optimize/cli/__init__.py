"""The commands `edgekit optimize` and `edgekit zoo`, found by the entry-point group `edgekit.commands`."""
