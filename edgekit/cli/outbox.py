"""``edgekit agent outbox``: the outbox of a device without a link, carried to the fleet in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit.agent.offline_rollback import acknowledge, outbox_to_file
from edgekit.agent.status import OUTBOX_FILE, ask_if_running
from edgekit.base.command_line import Report
from edgekit.core.errors import UsageError
from edgekit.update.contract import UpdaterRequest
from edgekit.update.launch import run_updater


def export_outbox(state: Path, file: Path) -> Report:
    """Write what waits in the outbox, signed with the device's key; it stays there until it is acknowledged.

    Raises:
        UsageError: This device is not enrolled.
        StorageError: The file cannot be written.
    """
    unsigned = state / OUTBOX_FILE
    answer: dict[str, Any] | None = ask_if_running(state, {"op": "outbox"})
    count = answer["messages"] if answer else outbox_to_file(state, unsigned)
    try:
        run_updater(
            UpdaterRequest(kind="sign", state_dir=str(state), carried=str(unsigned), area=str(file.resolve()))
        )
    finally:
        unsigned.unlink(missing_ok=True)
    text = f"{file} has {count} messages; on the fleet: edgekit-fleet import {file.name} -o ANSWER"
    return Report({"file": str(file), "messages": count}, text)


def acknowledge_outbox(state: Path, file: Path) -> Report:
    """Free what the fleet has, by its signed answer.

    Raises:
        TrustError: The answer is not the fleet's, or for another device.
        UsageError: The file cannot be read, or is about an outbox that this device no longer has.
    """
    request = UpdaterRequest(kind="acknowledge", state_dir=str(state), carried=str(file.resolve()))
    result = run_updater(request)
    told = {"op": "acknowledge", "boot": result.boot, "watermark": result.watermark}
    answer: dict[str, Any] | None = ask_if_running(state, told)
    is_ours = answer["is_ours"] if answer else acknowledge(state, result.boot, result.watermark)
    if not is_ours:
        raise UsageError(f"{file}: is not about the outbox that this device has now")
    text = f"the fleet has every message up to number {result.watermark}"
    return Report({"boot": result.boot, "watermark": result.watermark}, text)
