"""Measures variants in turn, each in a child process of its own, so that the figures are comparable.

In: a bundle, its variants, and how long to run. Out: one row of figures per variant, stored in the cache,
where selection reads them, and a report for the fleet. ``edgekit bench`` and ``verify``, measurement jobs of
the fleet and ``edgekit optimize`` all use it.

    bundle = open_bundle("person-detect.ekb")
    facts, chosen = facts_with_proofs(Path("/"))
    rows = measure(bundle, bundle.manifest.variants, facts, chosen.profile, threads=3, seconds=2.0)
"""
