"""Measures variants in turn, each in a child process of its own, so that figures can be compared.

In: a bundle, its variants, a time to run. Out: one row of figures for each variant, kept in the cache so
that selection uses them, and a report for the fleet.
"""
