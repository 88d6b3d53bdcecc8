"""Builds zoo bundles from pinned packages: recipes, downloads, recordings, training."""
