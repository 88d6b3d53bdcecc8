"""Measurement jobs on devices, and what variants cost on each kind of board."""
