"""Thousands of simulated devices in one process, with real certificates, over the real protocol.

Goes in: a fleet's address, an enrolment token, how many devices, and the weather (links that flap, all
reconnecting at once, wrong clocks), drawn from a seed. Comes out: what was sent, acknowledged, repeated
and refused, and how long it took. ``identities`` enrols, ``mqtt`` has the packets, ``socket`` the
encrypted connection, ``outbox`` what waits for the fleet, ``device`` one device, ``weather`` what happens
to it, ``run`` all of them.

    totals = simulate(identities, Plan(seconds=60))
"""
