"""Measurement jobs that the fleet orders: accepted, carried out in a child process, reported."""
