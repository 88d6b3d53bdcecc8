"""The fleet manager: registry, rollouts, ingest, REST API and web UI."""

__version__ = "0.1.0"
