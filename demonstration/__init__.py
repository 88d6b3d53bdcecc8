"""``./demo``: the whole system on one machine, as separate processes, on real recordings."""
