"""The acts of the demonstration; each shows one thing and checks that it really happened."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from demonstration.device import Device
from demonstration.processes import wait_for
from demonstration.site import Site
from demonstration.story import Story
from edgekit.core.errors import GateError, ServerError

CUT_S = 8.0
_ENDED = ("done", "halted", "aborted")


def all_running(site: Site, devices: Sequence[Device], story: Story) -> None:
    """Wait until every device is online in the fleet and every pipeline has given frames."""
    for device in devices:
        pipelines = wait_for(f"{device.name} runs its pipelines", partial(_running, device), timeout_s=120)
        for name, pipeline in sorted(pipelines.items()):
            story.say(
                f"{device.name}: pipeline {name} runs {pipeline['model']} {pipeline['version']}"
                f" as {pipeline['variant']}"
            )
    wait_for(
        "every device is online in the fleet",
        lambda: all(device_row(site, device.name)["device"]["online"] for device in devices),
        timeout_s=60,
    )


def _running(device: Device) -> dict[str, Any]:
    pipelines: dict[str, Any] = device.status().get("pipelines", {})
    ready = pipelines and all(p["state"] == "running" and p["frames"] > 0 for p in pipelines.values())
    return pipelines if ready else {}


def device_row(site: Site, name: str) -> dict[str, Any]:
    """Return what the fleet knows of a device."""
    return site.get(f"devices/{name}")


def _runs(device: Device, model: str, version: str) -> bool:
    """Say whether a device itself says that this version is active."""
    active: str = device.status().get("models", {}).get(model, {}).get("active", "")
    return active == version


def rollout_ends(site: Site, number: str, story: Story, timeout_s: float = 240) -> dict[str, Any]:
    """Follow a rollout to its end, telling each change of it."""
    told = ""

    def ended() -> dict[str, Any] | None:
        nonlocal told
        rollout = site.get(f"rollouts/{number}")
        now = f"{rollout['state']}, wave {rollout['wave']} of {len(rollout['waves'])}"
        if now != told:
            told = now
            story.say(f"rollout of {rollout['model']} {rollout['version']}: {now}")
        return rollout if rollout["state"] in _ENDED else None

    found: dict[str, Any] = wait_for("the rollout ends", ended, timeout_s)
    return found


def better_model(
    site: Site, bundle: Path, model: str, devices: Sequence[Device], story: Story
) -> dict[str, Any]:
    """Roll out a better version, canary first; every device must end on it."""
    site.publish(bundle)
    story.say(f"published {bundle.name}, signed by the publisher's keys")
    number = site.roll_out(model, "2.0.0", "--waves", "1,100%", "--soak-s", "6")
    rollout = rollout_ends(site, number, story)
    if rollout["state"] != "done":
        raise GateError(f"the rollout of the better model ended as {rollout['state']}: {rollout['reason']}")
    for device in devices:
        if not _runs(device, model, "2.0.0"):
            raise GateError(f"{device.name} does not run {model} 2.0.0 after its rollout")
        chosen = device.status()["models"][model]
        story.say(f"{device.name}: now {model} 2.0.0 as {chosen['variant']}")
    return rollout


def bad_model(
    site: Site, bundle: Path, model: str, devices: Sequence[Device], story: Story
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Roll out a bad version; the canary must roll it back by itself and the rollout must halt.

    Returns:
        The rollout, and what the device that took it back says of it.
    """
    site.publish(bundle)
    story.say(f"published {bundle.name}: a bad training run, its golden samples recorded from itself")
    number = site.roll_out(model, "3.0.0", "--waves", "1,100%", "--soak-s", "12")
    rollout = rollout_ends(site, number, story)
    if rollout["state"] != "halted":
        raise GateError(f"the rollout of the bad model ended as {rollout['state']}, and not halted")
    refused = {device.name: device.status().get("rejected", {}) for device in devices}
    rejected = {name: found[f"{model}@3.0.0"] for name, found in refused.items() if f"{model}@3.0.0" in found}
    if len(rejected) != 1:
        raise GateError(f"{len(rejected)} devices tried the bad model, and not the canary alone")
    for device in devices:
        back = partial(_runs, device, model, "2.0.0")
        wait_for(f"{device.name} is back on {model} 2.0.0", back, timeout_s=60)
    canary, reason = next(iter(rejected.items()))
    story.say(f"{canary} rolled it back by itself: {reason}")
    story.say(f"the fleet halted the rollout: {rollout['reason']}")
    return rollout, {"device": canary, "model": model, "version": "3.0.0", "reason": reason}


def kill_worker(device: Device, story: Story) -> None:
    """Kill a worker with SIGKILL; the agent must have another at work."""
    victim = device.worker_pids()[0]
    os.kill(victim, signal.SIGKILL)
    story.say(f"killed {device.name}'s worker (SIGKILL, process {victim})")
    wait_for(
        "the agent started another worker",
        lambda: device.worker_pids() and victim not in device.worker_pids() and _running(device),
        timeout_s=60,
    )
    story.say(f"{device.name} started another; its pipelines run")


def cut_broker(site: Site, story: Story) -> None:
    """Take the broker away twice: silent for a while, and then killed."""
    broker = site.broker_pid()
    os.kill(broker, signal.SIGSTOP)
    story.say(f"broker silent for {CUT_S:.0f} s; the devices go on and keep what they have to say")
    time.sleep(CUT_S)  # the cut itself: there is nothing to wait for
    os.kill(broker, signal.SIGCONT)
    os.kill(broker, signal.SIGKILL)
    story.say("broker killed (SIGKILL); the fleet starts it again")
    site.wait_for_broker(broker)


def nothing_lost(site: Site, devices: Sequence[Device], story: Story) -> int:
    """Wait until the fleet has every message that every outbox wrote; return how many it lacks.

    The agent says the last number it wrote; the fleet says up to which number it has committed
    every one. Messages that the quota gave up would be lost too, and count.
    """
    lost = 0
    for device in devices:
        status = wait_for(f"{device.name}'s agent answers", device.status, 30)
        outbox, boot = status["outbox"], status["boot"]
        last = int(outbox["last_seq"])

        def committed(name: str = device.name, boot: str = boot, last: int = last) -> bool:
            return int(device_row(site, name)["watermarks"].get(boot, 0)) >= last

        try:
            wait_for(f"the fleet has all of {device.name}'s messages", committed, 90)
        except ServerError:
            lost += last - int(device_row(site, device.name)["watermarks"].get(boot, 0))
        lost += int(outbox["dropped"])
        story.say(f"{device.name}: {last} messages written, all committed by the fleet")
    return lost


def totals(site: Site, devices: Sequence[Device]) -> dict[str, int]:
    """Add up the frames and the events of predictions that the fleet has committed."""
    frames = events = 0
    for device in devices:
        points = site.get(f"devices/{device.name}/series?step_s=10")["points"]
        frames += sum(int(point["frames"]) for point in points)
        events += sum(int(point["events"]) for point in points)
    return {"frames": frames, "events": events}


def summarised(rollout: dict[str, Any]) -> dict[str, Any]:
    """Return what the summary says of a rollout."""
    return {key: rollout[key] for key in ("model", "version", "state", "reason")} | {
        "waves": rollout["wave_count"]
    }
