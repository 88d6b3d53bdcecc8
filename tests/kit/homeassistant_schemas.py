"""Runs in Home Assistant's own environment: checks discovery messages by its own schemas.

Reads a JSON list of [platform, configuration]; prints a list of texts, empty where one is accepted.
"""

import importlib
import json
import sys

from homeassistant.components.mqtt import util  # noqa: F401 - the package imports its parts in this order

answers = []
for platform, config in json.load(sys.stdin):
    module = importlib.import_module(f"homeassistant.components.mqtt.{platform}")
    try:
        module.DISCOVERY_SCHEMA(config)
        answers.append("")
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
        answers.append(f"{type(error).__name__}: {error}")
print(json.dumps(answers))
