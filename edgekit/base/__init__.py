"""What every part of edgekit needs once: durable files, locks, clocks, child processes, HTTP, signals.

Device, workstation and fleet all use it. It imports nothing but ``edgekit.core`` and the standard
library, opens nothing when it is imported, and knows nothing about models, brokers or fleets.

>>> from edgekit.base.paths import cache_dir
>>> cache_dir().name
'edgekit'
"""
