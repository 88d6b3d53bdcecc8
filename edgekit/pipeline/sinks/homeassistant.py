"""A pipeline as a device in Home Assistant, by MQTT discovery, without a line of configuration there.

Entities: a binary sensor and a count of what is seen, in all and by label; a count for each zone, and for
each direction of a line; a picture, where pixels may leave; a switch; a list of profiles; in an agent, the
model's update with a button that rolls it back.

Source: Home Assistant's documentation of the MQTT integration, "MQTT Discovery" and the pages of its
platforms.
"""

from __future__ import annotations

import logging
import platform
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from edgekit.base.secrets import read_secret
from edgekit.core.egress import ENVELOPE
from edgekit.core.errors import ConfigError
from edgekit.core.ports import Result
from edgekit.pipeline.check import Options
from edgekit.pipeline.picture import thumbnail
from edgekit.pipeline.sinks import SinkContext
from edgekit.pipeline.sinks.present import Present
from edgekit.pipeline.sinks.remote import Remote
from edgekit.version import __version__

if TYPE_CHECKING:
    from edgekit.pipeline.events import Event

logger = logging.getLogger(__name__)
INSTALL, ROLL_BACK = "install", "rollback"
_ACTIONS: dict[str, Literal["install", "rollback"]] = {INSTALL: "install", ROLL_BACK: "rollback"}
MAX_PLACES = 200
"""Sensors of lines and zones that are announced; the rest is named in the log."""
_COUNTED = {"enter": "entered", "leave": "left", "inside": "inside"}
_IMAGE_PX, _MAX_IMAGE_BYTES = 640, 256 << 10
_EVENT_IMAGE_S = 1.0


class HomeAssistantOptions(Options, frozen=True, kw_only=True):
    """``[[sink]]`` of Home Assistant's broker.

    ``url``, ``ca``, ``user``, ``password_file``: as for ``mqtt``. ``device``: this machine's name, by
    default its host name. ``name``: what Home Assistant shows, by default the pipeline's. ``labels``: those
    that get entities of their own, also of each line. ``discovery``: Home Assistant's own prefix.
    ``every_s``: the shortest time between two counts. ``image_s``: the time between two pictures; 0: none.
    """

    url: str
    ca: str = ""
    user: str = ""
    password_file: str = ""
    device: str = ""
    name: str = ""
    labels: tuple[str, ...] = ()
    discovery: str = "homeassistant"
    every_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 1.0
    image_s: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 10.0

    def problems(self) -> Iterator[str]:
        """Report a prefix that cannot be published on."""
        if not self.discovery or any(character in self.discovery for character in "#+\0"):
            yield f"discovery: want a topic without '#' and '+', got {self.discovery!r}"


@dataclass
class _Place:
    """A sensor of what a zone counts, or of a line's crossings in one direction, of one label or of all."""

    name: str
    document: dict[str, Any]
    state_class: Literal["measurement", "total_increasing"]
    kind: Literal["zone", "line"] = "line"

    def count(self, event: Event) -> None:
        """Count an event, if it is of this zone or line, direction and label."""
        known = self.document
        is_ours = getattr(event, self.kind) == known[self.kind]
        is_ours &= event.direction == known.get("direction", event.direction)
        if is_ours and event.label == known.get("label", event.label):
            # a line's event has the number of all labels, and this sensor may be of one
            count = event.count if self.kind == "zone" else known["count"] + 1
            self.document = {**known, "count": count}


class HomeAssistantSink:
    """Announces the entities whose data ``[privacy] egress`` names, and sends their states.

    Raises:
        ConfigError: There is no way to a broker, or its address is wrong.
    """

    Options = HomeAssistantOptions
    leaves_device = True

    def __init__(self, options: HomeAssistantOptions, context: SinkContext) -> None:
        if context.connect is None:
            raise ConfigError(
                "sink 'homeassistant': nothing here can reach a broker", hint="run it by edgekit run"
            )
        self._options, self._pipeline = options, context.pipeline
        self._egress, self._switch, self._updates = frozenset(context.egress), context.switch, context.updates
        device = _plain(options.device or platform.node() or "device")
        self._id = f"edgekit_{device}_{_plain(context.pipeline)}"
        self._base = f"edgekit/{device}/{context.pipeline}"
        self._model = self._version = ""
        self._present = Present()
        self._seen: dict[str, Any] = {"total": 0, "counts": {}}
        self._places = _places(context, options.labels) if {"tracks", "labels"} <= self._egress else {}
        self._said_s = self._pictured_s = float("-inf")
        commands = {
            f"{self._base}/set": lambda text: self._switch.command(text, "Home Assistant"),
            f"{options.discovery}/status": lambda text: self._remote.renew() if text == "online" else None,
        }
        if self._updates is not None:
            commands[f"{self._base}/update/set"] = self._update
        self._remote: Remote = Remote(self._base, commands, self._say_all)
        self._unwatch = [self._switch.watch(self._switched)]
        if self._updates is not None:
            self._unwatch.append(self._updates.watch(self._say_version))
        connect, ca = context.connect, context.path(options.ca) if options.ca else None
        password = read_secret(options.password_file, context.folder, "sink 'homeassistant': password_file")
        self._remote.open(
            lambda session: connect(options.url, ca=ca, user=options.user, password=password, session=session)
        )

    # -- the finisher's thread

    def write(self, result: Result) -> None:
        """Send what changed, at most every ``every_s``; at once where there is an event."""
        if (result.model, result.version) != (self._model, self._version):
            self._model, self._version = result.model, result.version
            self._announce()
            self._say_version()
        for event in result.events:
            self._present.note(event)
            for place in self._places.values():
                place.count(event)
        now_s = time.monotonic()
        if not self._switch.is_on:  # a frame that was on its way
            return
        if result.events or now_s - self._said_s >= self._options.every_s:
            self._said_s = now_s
            counts = self._present.counts(result.prediction)
            self._seen = {"total": sum(counts.values()), "counts": counts}
            self._say_seen()
        self._send_picture(result, now_s)

    def _send_picture(self, result: Result, now_s: float) -> None:
        wait_s = min(_EVENT_IMAGE_S, self._options.image_s) if result.events else self._options.image_s
        if not self._has_image or now_s - self._pictured_s < wait_s:
            return
        self._pictured_s = now_s
        if (picture := thumbnail(result.frame.data, _IMAGE_PX, _MAX_IMAGE_BYTES)) is not None:
            self._remote.raw(f"{self._base}/image", picture, "pixels")

    # -- states, from any thread

    def _say_all(self) -> None:
        self._announce()
        self._say_state()
        self._say_seen()
        self._say_version()

    def _switched(self) -> None:
        if not self._switch.is_on:
            self._seen = {"total": 0, "counts": {}}
            for place in self._places.values():
                if place.state_class == "measurement":
                    place.document = {**place.document, "count": 0}
            self._say_seen()
        self._say_state()

    def _say_state(self) -> None:
        self._remote.keep(f"{self._base}/state", b"ON" if self._switch.is_on else b"OFF")
        if self._switch.profiles:
            # Source: Home Assistant, "MQTT Select": the payload None is no option
            self._remote.keep(f"{self._base}/profile", (self._switch.turned.profile or "None").encode())

    def _say_seen(self) -> None:
        if {"counts", "labels"} & self._egress:
            self._remote.keep(f"{self._base}/seen", self._seen)
        for key, place in self._places.items():
            self._remote.keep(f"{self._base}/{key}", place.document)

    def _say_version(self) -> None:
        versions = self._updates.versions() if self._updates is not None else None
        if versions is not None:
            state = {
                "installed_version": versions.installed,
                "latest_version": versions.latest or versions.installed,
                "title": versions.model,
                "in_progress": versions.is_busy,
            }
            self._remote.keep(f"{self._base}/update", msgspec.json.encode(state))

    def _update(self, text: str) -> None:
        action = _ACTIONS.get(text)
        if self._updates is None or action is None:
            raise ValueError(f"want {' or '.join(_ACTIONS)}, got {text[:40]!r}")
        self._updates.ask(action)

    # -- discovery

    @property
    def _has_image(self) -> bool:
        return "pixels" in self._egress and self._options.image_s > 0

    def _announce(self) -> None:
        """Publish each entity's configuration, and an empty one where this pipeline has none."""
        for data_class, platform_name, key, config in self._entities():
            topic = f"{self._options.discovery}/{platform_name}/{self._id}/{key}/config"
            whole = {**config, **self._common(), "unique_id": f"{self._id}_{key}"} if config else None
            self._remote.keep(topic, msgspec.json.encode(whole) if whole else b"", data_class)

    def _common(self) -> dict[str, Any]:
        about = {"model": self._model, "sw_version": self._version} if self._model else {}
        return {
            "availability": [{"topic": self._remote.available}],
            "device": {
                "identifiers": [self._id],
                "name": self._options.name or self._pipeline,
                "manufacturer": "edgekit",
                **about,
            },
            "origin": {"name": "edgekit", "sw_version": __version__},
        }

    def _entities(self) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
        """Yield (class of data, platform, key, configuration) of each entity; empty where it has none."""
        base, seen = self._base, f"{self._base}/seen"
        if {"counts", "labels"} & self._egress:
            # without 'counts' the number in all does not leave
            total = "value_json.total" if "counts" in self._egress else "value_json.counts.values() | sum"
            yield ENVELOPE, "binary_sensor", "seen", _presence("Seen", seen, total)
            yield ENVELOPE, "sensor", "count", _count("Count", seen, f"{{{{ {total} }}}}", "measurement")
        for label in self._options.labels if "labels" in self._egress else ():
            key = _plain(label)
            number = f"value_json.counts[{msgspec.json.encode(label).decode()}] | default(0)"
            yield "labels", "binary_sensor", f"seen_{key}", _presence(label.capitalize(), seen, number)
            name = f"{label.capitalize()} count"
            yield "labels", "sensor", f"count_{key}", _count(name, seen, f"{{{{ {number} }}}}", "measurement")
        for key, place in self._places.items():
            config = _count(place.name, f"{base}/{key}", "{{ value_json.count }}", place.state_class)
            yield "tracks", "sensor", key, config
        image = {"name": "Picture", "image_topic": f"{base}/image", "content_type": "image/jpeg"}
        yield ENVELOPE, "image", "image", image if self._has_image else {}
        switch = {"name": "Running", "command_topic": f"{base}/set", "state_topic": f"{base}/state"}
        yield ENVELOPE, "switch", "running", {**switch, "icon": "mdi:cctv"}
        profile: dict[str, Any] = {
            "name": "Profile",
            "command_topic": f"{base}/set",
            "state_topic": f"{base}/profile",
        }
        has = bool(self._switch.profiles)
        profile |= {"options": ["auto", *self._switch.profiles]}
        yield ENVELOPE, "select", "profile", profile if has else {}
        yield from self._update_entities(f"{base}/update")

    def _update_entities(self, topic: str) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
        has = self._updates is not None
        update = {"name": "Model", "state_topic": topic, "command_topic": f"{topic}/set"}
        update |= {"payload_install": INSTALL, "device_class": "firmware", "entity_category": "config"}
        yield ENVELOPE, "update", "model", update if has else {}
        button = {"name": "Roll the model back", "command_topic": f"{topic}/set", "payload_press": ROLL_BACK}
        yield ENVELOPE, "button", "rollback", {**button, "entity_category": "config"} if has else {}

    def close(self) -> None:
        """Say that the pipeline is not there; safe to call twice."""
        for unwatch in self._unwatch:
            unwatch()
        self._remote.close()


def _places(context: SinkContext, labels: tuple[str, ...]) -> dict[str, _Place]:
    """Return the sensors of a pipeline's zones and lines by their key."""
    found: dict[str, _Place] = {}
    for zone in context.zones:
        name = f"{zone.name} {_COUNTED[zone.count]}".capitalize()
        state_class: Literal["measurement", "total_increasing"] = (
            "measurement" if zone.count == "inside" else "total_increasing"
        )
        key = _plain(f"zone_{zone.name}")
        found[key] = _Place(name, {"zone": zone.name, "count": 0}, state_class, "zone")
    for line in context.lines:
        own = [label for label in labels if not line.labels or label in line.labels]
        for direction in line.directions:
            for label in ("", *own):
                words = [word for word in (line.name, direction, label) if word]
                document = {"line": line.name, "direction": direction, "count": 0}
                document |= {"label": label} if label else {}
                key = _plain("_".join(("line", *words)))
                found[key] = _Place(" ".join(words).capitalize(), document, "total_increasing")
    if left_out := list(found)[MAX_PLACES:]:
        logger.warning("Home Assistant gets no sensor of %s: at most %d", ", ".join(left_out), MAX_PLACES)
    return dict(list(found.items())[:MAX_PLACES])


def _presence(name: str, topic: str, number: str) -> dict[str, Any]:
    template = f"{{{{ 'ON' if {number} > 0 else 'OFF' }}}}"
    return {"name": name, "state_topic": topic, "value_template": template, "device_class": "occupancy"}


def _count(name: str, topic: str, template: str, state_class: str) -> dict[str, Any]:
    return {"name": name, "state_topic": topic, "value_template": template, "state_class": state_class}


def _plain(text: str) -> str:
    """Return a name as an id of discovery. Source: MQTT Discovery, "Discovery topic": [a-zA-Z0-9_-]."""
    return re.sub(r"[^a-zA-Z0-9_-]+", "_", text)
