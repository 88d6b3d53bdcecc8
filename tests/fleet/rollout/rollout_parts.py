"""A fleet on disk with a clock in hand, and devices that follow a script."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from edgekit.core import wire
from edgekit.core.sketch import Histogram
from edgekit.core.spec import Manifest
from edgekit_fleet.registry.keys import SigningKey
from edgekit_fleet.registry.repository import Published
from edgekit_fleet.rollout.desired import DesiredStates
from edgekit_fleet.rollout.engine import Engine
from edgekit_fleet.rollout.plan import make_spec
from edgekit_fleet.rollout.records import Rollouts
from edgekit_fleet.store.arrivals import Arrived
from edgekit_fleet.store.database import Database
from edgekit_fleet.store.devices import Devices
from edgekit_fleet.store.messages import Messages

MODEL = "motion"
NOW_MS = 1_800_000_000_000
KEY = SigningKey.generate()


class Bundles:
    """Versions that are published."""

    def __init__(self, *versions):
        self.versions, self.variants = versions, ()

    def bundle(self, model, version):
        if model != MODEL or version not in self.versions:
            return None
        manifest = Manifest(
            format=1,
            model=model,
            version=version,
            task="sensor",
            inputs=(),
            outputs=(),
            variants=self.variants,
        )
        return Published(1, model, version, "ab" * 32, 100, 1000, NOW_MS, manifest)


class Retained:
    """A downlink that keeps what a broker would retain."""

    def __init__(self):
        self.sent, self.bodies = [], {}

    def publish(self, device, leaf, body, *, retain=False):
        assert (leaf, retain) == ("desired", True)
        self.sent.append(device)
        self.bodies[device] = body


class Site:
    """The fleet's parts; ``restart`` makes new ones on the same disk, as after a crash."""

    def __init__(self, folder, *versions):
        self.folder, self.now_ms, self.changes, self.commands = folder, NOW_MS, [], []
        self.bundles, self.downlink = Bundles(*versions or ("1.0.0", "2.0.0", "3.0.0")), Retained()
        self.devices_by_id, self.seq = {}, {}
        self.database = None
        self.restart()

    def restart(self, wrap=lambda database: database, downlink=None):
        if self.database is not None:
            self.database.close()
        self.database = Database(self.folder / "fleet.sqlite")
        self.database._writer.execute("PRAGMA synchronous=OFF")  # here only the process dies, not the disk
        self.devices, self.messages = Devices(self.database), Messages(self.database)
        used = wrap(self.database)
        self.desired = DesiredStates(used, KEY, downlink or self.downlink, lambda: self.now_ms)
        self.engine = Engine(
            Rollouts(used),
            self.desired,
            self.bundles,
            lambda: self.now_ms,
            roll_back=lambda device, model: self.commands.append((device, model)),
            changed=self.changes.append,
        )

    def close(self):
        self.database.close()

    def add(self, *names, version="1.0.0", online=True):
        for name in names:
            self.devices.enroll(name, self.now_ms, None)
            device = Device(self, name, version)
            self.devices_by_id[name] = device
            if online:
                device.connect()
            device.report()
        return self

    def create(self, version="2.0.0", **about):
        about = {"waves": ["1", "50%", "100%"], "soak_s": 10, **about}
        return self.engine.create(make_spec({"model": MODEL, "version": version, **about}))

    def tick(self, seconds=0.0):
        self.now_ms += int(seconds * 1000)
        self.engine.tick()

    def rollout(self, rollout):
        return self.engine.store.get(rollout.id)

    def wishes(self):
        """Return what each device was last told to run, having checked the signature."""
        return {name: device.wish() for name, device in self.devices_by_id.items()}

    def participants(self, rollout):
        return {one.device: one for one in self.engine.store.participants(self.rollout(rollout))}

    def commit(self, device, *records):
        seq = self.seq.get(device, 1)
        self.seq[device] = seq + len(records)
        numbered = [(seq + i, record) for i, record in enumerate(records)]
        arrived = Arrived(device, "b1", seq, len(records), numbered, [], self.now_ms)
        self.messages.commit([arrived])
        if any(isinstance(record, wire.MetricReport) for record in records):
            self.engine.observer.note(device)


class Device:
    """What a device says, when the script has it say so."""

    def __init__(self, site, name, version):
        self.site, self.name, self.active, self.rejected, self.reports = site, name, version, {}, 0

    def connect(self):
        birth = wire.Birth(online=True, boot="b1", conn=1)
        self.site.devices.take_birth(self.name, birth, self.site.now_ms)

    def report(self):
        self.reports += 1
        state = wire.Reported(
            boot="b1",
            version=self.reports,
            desired=0,
            models={MODEL: wire.ModelState(active=self.active)},
            rejected=self.rejected,
        )
        self.site.devices.take_reported(self.name, state, self.site.now_ms)

    def wanted(self):
        body = self.site.downlink.bodies.get(self.name)
        if not body:  # never told, or forgotten
            return None
        document = wire.decode(body, wire.Desired)
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(KEY.public))
        public.verify(bytes.fromhex(document.signature["sig"]), wire.signed_bytes(body))
        assert document.device == self.name
        return document.models.get(MODEL)

    def wish(self):
        wanted = self.wanted()
        return wanted and wanted.version

    def record(self, event, state="IDLE", reason="", version=None, rollout=None):
        wanted = self.wanted()
        return wire.UpdateRecord(
            mono_ns=0,
            unix_ms=self.site.now_ms,
            model=MODEL,
            version=version or wanted.version,
            state=state,
            event=event,
            reason=reason,
            rollout=wanted.rollout if rollout is None else rollout,
        )

    def say(self, event, reason="", **about):
        self.site.commit(self.name, self.record(event, reason=reason, **about))

    def commits(self):
        self.say("WANTED", state="FETCHING")
        self.say("COMMITTED")
        self.active = self.wish()
        self.report()

    def fails(self, reason="golden sample 0 differs by 0.7"):
        self.say("FAILED", reason=reason, state="ROLLING_BACK")
        self.say("ROLLED_BACK", reason=reason)
        self.rejected[f"{MODEL}@{self.wish()}"] = reason
        self.report()

    def measures(self, version, *, frames=100, errors=0, ms=10.0, slow=0, reports=1):
        for _ in range(reports):
            histogram = Histogram()
            histogram.add(ms, frames - errors - slow)
            histogram.add(ms * 10, slow)
            self.site.commit(
                self.name,
                wire.MetricReport(
                    mono_ns=0,
                    unix_ms=self.site.now_ms,
                    pipeline="p",
                    model=MODEL,
                    version=version,
                    variant="v",
                    period_s=5.0,
                    frames=frames,
                    errors=errors,
                    infer_ms=histogram.to_wire(),
                ),
            )
