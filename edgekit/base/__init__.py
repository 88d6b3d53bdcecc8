"""What every part of edgekit needs: durable files, locks, clocks, child processes, HTTP, signals.

Device, workstation and fleet use it. Goes in: paths, URLs, commands. Comes out: bytes, or an
``EdgekitError`` with a hint. It knows nothing about models, brokers or fleets.

>>> from edgekit.base.paths import cache_dir
>>> cache_dir().name
'edgekit'
"""
