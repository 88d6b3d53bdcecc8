# ruff: noqa: INP001 - a script beside the document it writes
"""Writes ``docs/protocol.yaml``: the MQTT protocol as AsyncAPI 3, taken from ``edgekit.core.wire``.

Run ``python docs/generate_protocol.py`` after a change of the wire messages; a test compares.

Source: asyncapi.com, specification 3.0.0, and the MQTT bindings 0.2.0.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from pathlib import Path
from typing import Any

import msgspec

from edgekit.core import wire

TARGET = Path(__file__).with_name("protocol.yaml")
JSON = "application/json"
MSGPACK = "application/msgpack"
_PLAIN = re.compile(r"[A-Za-z_/$][A-Za-z0-9 _/$.()-]*")
_WORDS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}

# leaf: (message, content type, QoS, retained, what it is for)
UP: dict[str, tuple[type[msgspec.Struct], str, int, bool, str]] = {
    "state": (wire.Birth, JSON, 1, True, "Who is there; also the last will, with online false."),
    "reported": (wire.Reported, JSON, 1, False, "What the device runs, whole, on change and on connect."),
    "m": (wire.Batch, MSGPACK, 1, False, "Metric reports, from the outbox."),
    "ev": (wire.Batch, MSGPACK, 1, False, "Events, update transitions, alerts, answers: ahead of metrics."),
    "req": (
        wire.Request,
        JSON,
        0,
        False,
        "A question to the fleet; it is answered within a minute or never.",
    ),
}
DOWN: dict[str, tuple[type[msgspec.Struct], str, int, bool, str]] = {
    "desired": (wire.Desired, JSON, 1, True, "What the fleet wants of the device: whole, versioned, signed."),
    "ack": (wire.Ack, JSON, 0, False, "The watermark: what the outbox may forget."),
    "res": (wire.Response, JSON, 0, False, "The answer to a request."),
    "cmd": (wire.Command, JSON, 1, False, "Do this once; sent again until an answer comes."),
}


def document() -> dict[str, Any]:
    """Return the protocol as an AsyncAPI document."""
    channels, operations, messages = {}, {}, {}
    for way, table, action in (("up", UP, "send"), ("down", DOWN, "receive")):
        for leaf, (kind, content, qos, retain, summary) in table.items():
            name = f"{way}{leaf.capitalize()}"
            channels[name] = _channel(f"{wire.ROOT}/{{device}}/{way}/{leaf}", name, summary)
            operations[name] = _operation(name, action, qos, retain=retain)
            messages[name] = _message(kind, content, summary)
    channels["downRes"]["messages"]["chunk"] = {"$ref": "#/components/messages/chunk"}
    messages["chunk"] = _chunk()
    kinds = [entry[0] for entry in (*UP.values(), *DOWN.values())]
    _, schemas = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "edgekit, between a device and its fleet",
            "version": "1",
            "description": inspect.getdoc(wire),
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": JSON,
        "servers": _servers(),
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": _discriminated(schemas)},
    }


def _discriminated(schema: Any) -> Any:
    """Return a schema with discriminators as AsyncAPI has them: the property's name alone."""
    if isinstance(schema, dict):
        return {
            key: item["propertyName"] if key == "discriminator" else _discriminated(item)
            for key, item in schema.items()
        }
    return [_discriminated(item) for item in schema] if isinstance(schema, list) else schema


def _servers() -> dict[str, Any]:
    return {
        "fleet": {
            "host": "{host}:{port}",
            "protocol": "secure-mqtt",
            "protocolVersion": "3.1.1",
            "description": (
                "The device's certificate names it, and is its MQTT client id. It may publish only below its"
                " up, subscribe only to its down. Clean session, one subscription to down/# at QoS 0."
            ),
            "variables": {
                "host": {"description": "From the enrolment's broker_url."},
                "port": {"default": "8883"},
            },
            "security": [{"type": "X509", "description": "A client certificate of the fleet's CA."}],
        }
    }


def _channel(address: str, message: str, summary: str) -> dict[str, Any]:
    return {
        "address": address,
        "summary": summary,
        "parameters": {"device": {"description": "The device's id, [A-Za-z0-9_-]{1,64}."}},
        "messages": {message: {"$ref": f"#/components/messages/{message}"}},
    }


def _operation(channel: str, action: str, qos: int, *, retain: bool) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "bindings": {"mqtt": {"qos": qos, "retain": retain, "bindingVersion": "0.2.0"}},
    }


def _message(kind: type[msgspec.Struct], content: str, summary: str) -> dict[str, Any]:
    return {
        "name": kind.__name__,
        "contentType": content,
        "summary": summary,
        "payload": {"$ref": f"#/components/schemas/{kind.__name__}"},
    }


def _chunk() -> dict[str, Any]:
    return {
        "name": "Chunk",
        "contentType": "application/octet-stream",
        "summary": "A piece of a file: 'EKC1', request id (32 bit), offset (64 bit, big endian), bytes.",
        "payload": {"type": "string", "format": "binary", "maxLength": wire.CHUNK_BYTES + 16},
    }


def to_yaml(value: Any, indent: int = 0) -> str:
    """Return a document of mappings, lists and scalars as block-style YAML 1.2.

    >>> print(to_yaml({"a": [1, {"b": "x: y"}], "c": {}}), end="")
    a:
      - 1
      - b: "x: y"
    c: {}
    """
    pad = "  " * indent
    lines = ""
    if isinstance(value, dict):
        for key, item in value.items():
            lines += f"{pad}{_scalar(key)}:{_nested(item, indent)}"
        return lines
    for item in value:
        if isinstance(item, (dict, list)) and item:
            lines += f"{pad}- {to_yaml(item, indent + 1).lstrip()}"
        else:
            lines += f"{pad}- {_scalar(item)}\n"
    return lines


def _nested(item: Any, indent: int) -> str:
    if isinstance(item, (dict, list)) and item:
        return f"\n{to_yaml(item, indent + 1)}"
    return f" {_scalar(item)}\n"


def _scalar(value: Any) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value.rstrip() if value == value.rstrip() else json.dumps(value)
    return json.dumps(value, ensure_ascii=False)  # which is YAML too


def main() -> int:
    """Write the document."""
    TARGET.write_text(f"# written by docs/generate_protocol.py\n{to_yaml(document())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
