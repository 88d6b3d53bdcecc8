"""What Home Assistant's documentation asks of a discovery message, platform by platform.

Source: home-assistant.io, "MQTT" (discovery messages, device, origin, availability) and "MQTT binary sensor",
"sensor", "image", "switch", "select", "update", "button".
"""

from __future__ import annotations

import re
from typing import Any

COMMON = {
    "availability",
    "device",
    "origin",
    "unique_id",
    "name",
    "icon",
    "entity_category",
    "value_template",
}
# platform: (needed keys, further keys, entity categories)
PLATFORMS: dict[str, tuple[set[str], set[str], set[str]]] = {
    "binary_sensor": ({"state_topic"}, {"device_class", "payload_on", "payload_off"}, {"diagnostic"}),
    "sensor": (
        {"state_topic"},
        {"device_class", "state_class", "unit_of_measurement", "last_reset_value_template"},
        {"diagnostic"},
    ),
    "image": ({"image_topic"}, {"content_type", "image_encoding"}, {"diagnostic"}),
    "switch": ({"command_topic"}, {"state_topic", "payload_on", "payload_off"}, {"config"}),
    "select": ({"command_topic", "options"}, {"state_topic"}, {"config"}),
    "update": (
        set(),
        {"state_topic", "command_topic", "payload_install", "device_class", "title"},
        {"config", "diagnostic"},
    ),
    "button": ({"command_topic"}, {"payload_press", "device_class"}, {"config", "diagnostic"}),
}
DEVICE = {"identifiers", "connections", "name", "manufacturer", "model", "sw_version", "hw_version"}
TOPIC = re.compile(r"[^#+\0]+")
CONFIG_TOPIC = re.compile(r"(?P<prefix>[^/]+)/(?P<platform>\w+)/(?P<node>[\w-]+)/(?P<key>[\w-]+)/config")


def problems(platform: str, config: dict[str, Any]) -> list[str]:
    """Return what is wrong with a discovery message."""
    needed, further, categories = PLATFORMS[platform]
    found = [f"lacks {key}" for key in needed - config.keys()]
    found += [f"has {key}" for key in config.keys() - needed - further - COMMON]
    found += [
        f"{key}: {config[key]}" for key in config if key.endswith("_topic") and not is_topic(config[key])
    ]
    device = config.get("device", {})
    if not (device.get("identifiers") or device.get("connections")):
        found.append("device: identifies nothing")
    found += [f"device has {key}" for key in device.keys() - DEVICE]
    if not config.get("unique_id"):
        found.append("a device needs unique_id")
    if not config.get("origin", {}).get("name"):
        found.append("origin: lacks name")
    found += [f"availability: {row}" for row in config["availability"] if not is_topic(row.get("topic"))]
    if config.get("entity_category", next(iter(categories))) not in categories:
        found.append(f"entity_category {config['entity_category']}")
    if config.get("state_class", "measurement") not in ("measurement", "total", "total_increasing"):
        found.append(f"state_class {config['state_class']}")
    return found


def is_topic(text: Any) -> bool:
    return isinstance(text, str) and bool(TOPIC.fullmatch(text))


def configs(heard: dict[str, list[bytes]], decode: Any) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return (platform, configuration) of each announced entity, by its key."""
    found = {}
    for topic, payloads in heard.items():
        match = CONFIG_TOPIC.fullmatch(topic)
        if match and payloads[-1]:
            found[match["key"]] = (match["platform"], decode(payloads[-1]))
    return found
