"""What variants of models cost on each kind of board, measured by devices.

Goes in: jobs from people (a device, a signed bundle), and the measurement records that devices send.
Comes out: the state of each job, and costs, which are medians over the devices of one kind. ``jobs``
gives jobs and follows them, ``costs`` merges what was measured, ``api`` serves both, ``service`` runs it.

    job = jobs.create(Request("cam-1", bundle.target, threads=4, seconds=2.0), now_ms, expires_ms)
    jobs.costs.page(model="person-detect", profile="rpi5")
"""
