"""Bringing one bundle to many devices: waves, guards, halt and way back, desired states."""
