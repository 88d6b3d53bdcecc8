"""The fleet manager: it enrols devices, stores what they send, and rolls signed models out to them.

Its packages, each of which imports only those below it: ``cli`` and ``app`` on top, then ``ui``,
``measuring``, ``rollout``, ``ingest``, ``registry``, ``broker``, ``web``, ``identity`` and ``store``. Of
the device's code it uses ``edgekit.core`` (formats, messages) and ``edgekit.base`` only.

    edgekit-fleet serve --data ./fleet-data
"""

__version__ = "0.1.0"
