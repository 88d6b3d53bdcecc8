"""Hears every message of a broker."""

from __future__ import annotations

import json
import threading
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion


class Ear:
    """Keeps all messages by topic; ``say`` publishes one."""

    def __init__(self, port: int) -> None:
        self.heard: dict[str, list[bytes]] = {}
        self.retained: set[str] = set()
        self.changed = threading.Condition()
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        ready = threading.Event()
        self._client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self._client.on_subscribe = lambda *_: ready.set()
        self._client.on_message = self._take
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert ready.wait(60)

    def _take(self, _client: Any, _data: Any, message: Any) -> None:
        with self.changed:
            self.heard.setdefault(message.topic, []).append(message.payload)
            if message.retain:
                self.retained.add(message.topic)
            self.changed.notify_all()

    def last(self, topic: str) -> Any:
        """Return the last message of a topic, decoded where it is JSON; None where there is none."""
        if not (payloads := self.heard.get(topic)):
            return None
        try:
            return json.loads(payloads[-1])
        except ValueError:
            return payloads[-1]

    def say(self, topic: str, payload: str, *, retain: bool = False) -> None:
        self._client.publish(topic, payload, qos=1, retain=retain)

    def wait(self, claim: Any, limit_s: float = 60.0) -> Any:
        with self.changed:
            assert self.changed.wait_for(claim, limit_s), {k: v[-1][:200] for k, v in self.heard.items()}
            return claim()

    def stop(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
