"""Updates of models on a device: fetch, verify, install, try, then commit or roll back.

Goes in: a desired state that the fleet signed. Comes out: a bundle in a model's active slot, and one
record for each transition. ``driver`` runs the state ``machine``; ``updater`` is the short-lived process
that verifies (``trust``) and fetches (``download``); ``slots`` holds what is installed; ``guards`` judges
a trial; ``identity`` enrols the device and renews its certificate.

>>> result = run_updater(UpdaterRequest(kind="fetch", state_dir=state, desired=text))  # doctest: +SKIP
>>> folder = Slots(state).stage(result.model, result.version, result.manifest_sha256)  # doctest: +SKIP
>>> Slots(state).commit(result.model, result.version)  # doctest: +SKIP
"""
