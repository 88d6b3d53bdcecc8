"""One simulated device: it connects, announces itself, reports, and sends again what is not acknowledged."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from edgekit.core import wire
from edgekit.core.errors import ProtocolError
from edgekit.core.sketch import Histogram
from edgekit_fleet.simulator import mqtt
from edgekit_fleet.simulator.identities import Identity
from edgekit_fleet.simulator.outbox import Outbox
from edgekit_fleet.simulator.socket import Socket
from edgekit_fleet.simulator.weather import Weather

KEEPALIVE_S = 60
TICK_S = 1.0
ANSWER_S = 30.0
MODEL, VERSION, PIPELINE = "person-detect", "1.0.0", "door"


@dataclass
class Totals:
    """What happened to all devices; times in seconds."""

    counts: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    """Connections that the broker refused, by reason."""
    ends: Counter[str] = field(default_factory=Counter)
    """Connections that ended without the device's wish, by reason."""
    acks: list[tuple[float, float]] = field(default_factory=list)
    """When a record was acknowledged, and how long after it was sent."""
    connect_s: list[float] = field(default_factory=list)


class Device:
    """One device on the running event loop.

    Args:
        identity: Its name and certificate.
        weather: What happens to it.
        totals: Where it counts.
        boot: The name of its outbox.
    """

    def __init__(self, identity: Identity, weather: Weather, totals: Totals, boot: str) -> None:
        self._identity, self._weather, self._totals = identity, weather, totals
        self._loop = asyncio.get_running_loop()
        self.outbox = Outbox(boot)
        self.is_up = False
        self._conn = self._attempt = self._packet_id = self._reported = self._desired = 0
        self._models: dict[str, wire.ModelState] = {
            MODEL: wire.ModelState(active=VERSION, variant="simulated")
        }
        self._socket: Socket | None = None
        self._reader = mqtt.Reader()
        self._began_s = self._loop.time()
        self._asked_s = self._spoke_s = 0.0
        self._is_stopping = self._is_stopped = False
        self._dialling: set[asyncio.Task[None]] = set()
        self._frames = 0

    # -- its life

    def start(self) -> None:
        """Connect in a while, and report from then on."""
        weather, plan = self._weather, self._weather.plan
        self._connect_in(weather.first_connect_s())
        self._loop.call_later(weather.dice.uniform(0, plan.report_s), self._report)
        self._loop.call_later(weather.event_s(), self._event)
        if weather.is_flapping:
            self._loop.call_later(plan.connect_s + weather.flap_s(), self._flap)

    def break_link(self) -> None:
        """Lose the connection without a word, and connect again in a while, as all others do."""
        self._drop()
        self._connect_in(self._weather.first_connect_s())

    def end_reports(self) -> None:
        """Report nothing new; what waits is still sent."""
        self._is_stopping = True

    def stop(self) -> None:
        """Say goodbye and disconnect."""
        self._is_stopping = self._is_stopped = True
        if self.is_up and self._socket is not None:
            self._publish("state", wire.encode(self._will()), retain=True)
            self._socket.send(mqtt.DISCONNECT)
        self._drop()

    @property
    def unacknowledged(self) -> int:
        """The number of records that the fleet has not acknowledged."""
        return self.outbox.last_seq - self.outbox.watermark

    def _report(self) -> None:
        if self._is_stopping:
            return
        plan = self._weather.plan
        self._frames = int(15 * plan.report_s)
        times = Histogram()
        for _ in range(20):
            times.add(self._weather.dice.lognormvariate(2.0, 0.3), max(self._frames // 20, 1))
        sketch = times.to_wire()
        report: dict[str, Any] = {
            "pipeline": PIPELINE,
            "model": MODEL,
            "version": VERSION,
            "variant": "simulated",
        }
        self.outbox.put(
            wire.MetricReport(
                **self._stamp(),
                **report,
                period_s=plan.report_s,
                frames=self._frames,
                infer_ms=sketch,
                latency_ms=sketch,
                labels={"person": 3},
                sensors={"temperature_c": 51.5},
            )
        )
        self._send()
        self._loop.call_later(plan.report_s, self._report)

    def _event(self) -> None:
        if self._is_stopping:
            return
        names: dict[str, Any] = {"pipeline": PIPELINE, "model": MODEL, "version": VERSION}
        self.outbox.put(
            wire.EventRecord(**self._stamp(), **names, kind="appear", label="person", score=0.9, count=1)
        )
        self._send()
        self._loop.call_later(self._weather.event_s(), self._event)

    def _flap(self) -> None:
        if self._is_stopping:
            return
        if self._socket is not None:
            self._drop()
        else:
            self._connect_in(0.0)
        self._loop.call_later(self._weather.flap_s(), self._flap)

    def tick(self, now_s: float) -> None:
        """Send again what stalls, keep the connection alive, and give up one that is not answered.

        To be called each ``TICK_S``; ``now_s`` is the loop's time.
        """
        if self.is_up:
            if self.outbox.is_stalled(now_s):
                self._send()
            if now_s - self._spoke_s > KEEPALIVE_S / 2:
                self._write(mqtt.PING)
        elif self._socket is not None and now_s - self._asked_s > ANSWER_S:
            self._lost("no answer")

    def _stamp(self) -> dict[str, Any]:
        lived_s = self._loop.time() - self._began_s
        now_unix_ms = time.time_ns() // 1_000_000
        return {
            "mono_ns": int(self._loop.time() * 1e9),
            "unix_ms": self._weather.unix_ms(now_unix_ms, lived_s),
        }

    # -- the connection

    def _connect_in(self, delay_s: float) -> None:
        self._loop.call_later(delay_s, self._connect)

    def _connect(self) -> None:
        if self._socket is not None or self._is_stopped:
            return
        scheme, _, address = self._identity.broker_url.partition("://")
        host, _, port = address.rpartition(":")
        self._conn += 1
        self._asked_s = self._loop.time()
        self._reader = mqtt.Reader()
        context = self._identity.context() if scheme == "mqtts" else None
        socket = Socket(
            context,
            host.strip("[]"),
            opened=self._opened,
            arrived=self._arrived,
            closed=lambda reason: self._lost(reason) if self._socket is socket else None,
        )
        self._socket = socket
        task = self._loop.create_task(self._dial(socket, host.strip("[]"), int(port)))
        self._dialling.add(task)
        task.add_done_callback(self._dialling.discard)

    async def _dial(self, socket: Socket, host: str, port: int) -> None:
        try:
            await self._loop.create_connection(lambda: socket, host, port)
        except OSError as cause:
            if self._socket is socket:
                self._lost(cause.strerror or str(cause))

    def _opened(self) -> None:
        will = wire.up(self._identity.device, "state")
        self._write(mqtt.connect(self._identity.device, will, wire.encode(self._will()), KEEPALIVE_S))

    def _arrived(self, data: bytes) -> None:
        try:
            for packet in self._reader.feed(data):
                self._take(packet)
        except ProtocolError as cause:
            self._lost(str(cause))

    def _take(self, packet: mqtt.Packet) -> None:
        if packet.kind == mqtt.CONNACK:
            if packet.body[1]:
                self._totals.refusals[mqtt.REFUSALS.get(packet.body[1], str(packet.body[1]))] += 1
                self._lost("")
            else:
                self._write(mqtt.subscribe(wire.down(self._identity.device, "#")))
        elif packet.kind == mqtt.SUBACK:
            self._came_up()
        elif packet.kind == mqtt.PUBLISH:
            self._hear(*packet.publication())

    def _came_up(self) -> None:
        now_s = self._loop.time()
        self.is_up, self._attempt = True, 0
        self._totals.counts["connected"] += 1
        self._totals.connect_s.append(now_s - self._asked_s)
        birth = wire.Birth(
            online=True,
            boot=self.outbox.boot,
            conn=self._conn,
            agent="simulated",
            profile="generic-arm64",
            desired=self._desired,
            clock="synced",
            unix_ms=self._stamp()["unix_ms"],
        )
        self._publish("state", wire.encode(birth), retain=True)
        self._report_state()
        self.outbox.reconnected(now_s)
        self._send()

    def _report_state(self) -> None:
        self._reported += 1
        pipeline = wire.PipelineState("running", MODEL, VERSION, "simulated", fps=15.0, frames=self._frames)
        reported = wire.Reported(
            self.outbox.boot, self._reported, self._desired, self._models, pipelines={PIPELINE: pipeline}
        )
        self._publish("reported", wire.encode(reported))

    def _hear(self, topic: str, payload: bytes) -> None:
        _, _, leaf = wire.parse_topic(topic)
        if leaf == "ack":
            ack = wire.decode(payload, wire.Ack)
            now_s = self._loop.time()
            self._totals.acks += [(now_s, delay_s) for delay_s in self.outbox.acknowledged(ack, now_s)]
            self._totals.counts["reasons"] += len(ack.refused)
            self._send()
        elif leaf == "cmd":
            command = wire.decode(payload, wire.Command)
            self.outbox.put(wire.CommandAnswer(**self._stamp(), id=command.id, ok=True, message="simulated"))
            self._send()
        elif leaf == "desired" and payload:
            desired = wire.decode(payload, wire.Desired)
            self._desired = desired.version
            for name, model in desired.models.items():
                self._models[name] = wire.ModelState(active=model.version, variant="simulated")
            self._report_state()

    def _send(self) -> None:
        if not self.is_up:
            return
        before = self.outbox.repeated
        for leaf, payload in self.outbox.batches(self._loop.time()):
            self._publish(leaf, payload)
            self._totals.counts["messages"] += 1
        self._totals.counts["repeated"] += self.outbox.repeated - before

    def _publish(self, leaf: str, payload: bytes, *, retain: bool = False) -> None:
        self._packet_id = self._packet_id % 65_535 + 1
        topic = wire.up(self._identity.device, leaf)
        self._write(mqtt.publish(topic, payload, self._packet_id, retain=retain))

    def _write(self, data: bytes) -> None:
        self._spoke_s = self._loop.time()
        if self._socket is not None:
            self._socket.send(data)

    def _will(self) -> wire.Birth:
        return wire.Birth(online=False, boot=self.outbox.boot, conn=self._conn)

    def _lost(self, reason: str) -> None:
        """Connect again, in a while that grows."""
        if reason:
            self._totals.ends[reason[:80]] += 1
        self._drop()
        self._attempt = min(self._attempt + 1, 10)
        self._connect_in(self._weather.retry_s(self._attempt))

    def _drop(self) -> None:
        socket, self._socket, self.is_up = self._socket, None, False
        if socket is not None:
            socket.abort()
