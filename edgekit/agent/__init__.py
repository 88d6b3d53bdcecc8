"""The composition root: supervisor, worker, and the Python API."""
