"""Messages of devices on their way from the broker into the store.

Goes in: MQTT messages, pulled from NATS (``jetstream``) or delivered by any other broker (``shared``).
Comes out: committed rows, calls of the hooks in ``ports``, acknowledgements and answers to devices. The
broker may forget a message only after it was committed; a message that arrives twice is stored once.
``intake`` does the work for both brokers, ``chunks`` answers devices that fetch files by MQTT.

    intake.take([Message("ek/v1/cam-1/up/ev", payload, arrived_ms)])
"""
