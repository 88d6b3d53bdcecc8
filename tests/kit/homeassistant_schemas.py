"""Runs in Home Assistant's own environment: checks discovery messages by its own schemas.

Reads a JSON list of [platform, configuration]; prints a list of texts, empty where one is accepted. Templates
are checked by the loop and the thread that have Home Assistant's core, as they are in a running one.
"""

import asyncio
import importlib
import json
import sys
import tempfile

from homeassistant.components.mqtt import util  # noqa: F401 - the package imports its parts in this order
from homeassistant.core import HomeAssistant


async def main():
    with tempfile.TemporaryDirectory() as folder:
        core = HomeAssistant(folder)
        print(json.dumps([answer(*row) for row in json.load(sys.stdin)]))
        await core.async_stop(force=True)


def answer(platform, config):
    module = importlib.import_module(f"homeassistant.components.mqtt.{platform}")
    try:
        module.DISCOVERY_SCHEMA(config)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
        return f"{type(error).__name__}: {error}"
    return ""


asyncio.run(main())
