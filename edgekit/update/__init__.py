"""Model updates: bundles, slots, trust, the update machine."""
