"""The fleet's HTTP side: REST API, live changes, metrics."""
