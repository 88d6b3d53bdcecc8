"""The way to devices and the MQTT brokers that carry it.

``supervised`` runs a broker as a child process: ``embedded``, which is nats-server, or ``own_mosquitto``.
``admission`` answers nats-server who may connect, on a thread of its own, with ``callout`` and ``nkey``;
mosquitto reads a list. ``kick`` closes connections, by ``nats_kick`` or ``takeover``. ``mosquitto`` writes
the configuration of a mosquitto that somebody else runs. ``mqtt`` is the one file that uses the MQTT library.
``downlink`` sends a message to a device, ``commanding`` sends a command again until the device answers it.

    commanding.command("cam-1", "rollback", {"model": "person-detect"})
"""
