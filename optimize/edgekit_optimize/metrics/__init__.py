"""Metrics that judge a candidate against the float model."""
