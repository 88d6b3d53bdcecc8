"""The way out of a device: the link to the fleet, and the brokers that sinks name.

Goes in: records and documents. Comes out: MQTT messages, and what the fleet sends back. Data passes the
``gate`` (what may leave) and the ``ledger`` (what left); records wait in the ``outbox`` on disk, the
``sender`` decides which to send, and ``mqtt.Link`` sends them until the fleet acknowledges them.

>>> outbox = Outbox(state / "outbox.sqlite", clock)  # doctest: +SKIP
>>> link = Link("mqtts://fleet.local", "cam-1", outbox, handlers, tls=tls)  # doctest: +SKIP
>>> link.start()  # doctest: +SKIP
>>> outbox.put(gate.check(record))  # doctest: +SKIP
"""
