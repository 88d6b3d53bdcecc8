"""The fleet manager: registry, rollouts, ingest, REST API and web UI."""
