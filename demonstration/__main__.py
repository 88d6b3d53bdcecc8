"""Runs the demonstration: ``./demo [--once] [--json]``."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from demonstration import acts
from demonstration.device import Device, serial_pipeline, video_pipeline
from demonstration.live import LivePage, open_browser
from demonstration.prepare import DETECTOR, FACES, MOTION, Material, prepare, prepare_faces
from demonstration.sensor import Sensor
from demonstration.site import Site
from demonstration.story import Story
from edgekit.core.errors import EdgekitError

HOME = Path(".demo")
INTERRUPTED = 130


def main() -> int:
    """Tell the story; exit code 0 only if every act happened as told."""
    parser = argparse.ArgumentParser(prog="./demo", description="The whole system on this machine.")
    parser.add_argument("--once", action="store_true", help="end by itself, with a summary")
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON document")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)
    story = Story()
    try:
        summary = _perform(story, once=arguments.once)
    except EdgekitError as error:
        print(error.render(), file=sys.stderr)
        if arguments.json:
            print(json.dumps({"ok": False, "error": error.message, "seconds": round(story.seconds, 1)}))
        return error.exit_code
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return INTERRUPTED
    print(json.dumps(summary) if arguments.json else _readable(summary))
    return 0 if summary["ok"] else 8


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _perform(story: Story, *, once: bool) -> dict[str, Any]:
    scene = HOME.resolve() / "run"
    shutil.rmtree(scene, ignore_errors=True)
    logs = scene / "logs"
    logs.mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        live = "" if once else _open_live_page(scene, logs, story, stack)
        story.chapter("Models and recordings, from pinned packages")
        material = prepare(HOME.resolve() / "material", story)
        story.chapter("A fleet manager with its broker, and three devices")
        site = Site(scene, logs)
        stack.callback(site.stop)
        site.open()
        sensor = Sensor(material.watch)
        stack.callback(sensor.close)
        for bundle in (material.first, material.faces, material.motion):
            site.publish(bundle)
        devices = _devices(scene, logs, material, sensor, have_pages=not once)
        token = site.enrolment_token(len(devices))
        for device in devices:
            device.enrol(site.url, token)
            stack.callback(device.stop)
            device.start()
        story.say(f"the fleet's pages: {site.login_url()}")
        acts.all_running(site, devices, story)
        for device in devices[:2] if not once else ():
            story.say(f"what {device.name} sees while its model is changed: {device.page()}")
        summary = _story(site, devices, material, story)
        if not once:
            story.chapter(f"It goes on running: {site.login_url()}  (Ctrl-C ends it)")
            story.say(f"what the camera sees: {live}")
            signal.pause()
        story.chapter("The end")
    return summary | {"seconds": round(story.seconds, 1)}


def _open_live_page(scene: Path, logs: Path, story: Story, stack: contextlib.ExitStack) -> str:
    """Show a camera in a browser before all else; return the link. The stack ends it."""
    story.chapter("What a camera sees, live: faces are found, and hidden before anybody sees the picture")
    faces, video = prepare_faces(HOME.resolve() / "material", story)
    page = LivePage(faces, video, scene, logs, HOME.resolve() / "cache")  # proofs of the last time, if any
    stack.callback(page.stop)
    link = page.link()
    is_shown = open_browser(link, os.environ)
    story.say(f"{'your browser shows' if is_shown else 'open'} {link}")
    return link


def _devices(
    scene: Path, logs: Path, material: Material, sensor: Sensor, *, have_pages: bool
) -> list[Device]:
    street, door, motion = (
        Device(name, scene / "devices", logs, scene / "cache", has_page=have_pages)
        for name in ("street", "door", "motion")
    )
    street.add_pipeline(DETECTOR, material.first, video_pipeline("street", material.street_video, 8))
    record = str(scene / "faces-hidden.mp4")
    faces = video_pipeline("faces", material.face_video, 8, redact="*", record=record)
    door.add_pipeline(FACES, material.faces, faces)
    door.add_pipeline(DETECTOR, material.first, video_pipeline("doorstep", material.street_video, 4))
    motion.add_pipeline(MOTION, material.motion, serial_pipeline("wrist", sensor.path))
    return [street, door, motion]


def _story(site: Site, devices: list[Device], material: Material, story: Story) -> dict[str, Any]:
    street, door, motion = devices
    detecting = [street, door]
    story.chapter("A better detector: int8, smaller and faster; canary first")
    better = acts.better_model(site, material.better, DETECTOR, detecting, story)
    story.chapter("A bad detector: correctly signed, wrong on live frames")
    bad, rolled_back = acts.bad_model(site, material.bad, DETECTOR, detecting, story)
    story.chapter("A worker is killed; the broker goes silent, and is killed")
    acts.kill_worker(motion, story)
    acts.cut_broker(site, story)
    lost = acts.nothing_lost(site, devices, story)
    pipelines = [
        (f"{device.name}/{name}", pipeline)
        for device in devices
        for name, pipeline in device.status()["pipelines"].items()
    ]
    totals = acts.totals(site, devices)
    rollouts = [acts.summarised(better), acts.summarised(bad)]
    return {
        "ok": lost == 0 and totals["frames"] > 0 and totals["events"] > 0,
        "devices": len(devices),
        "frames": totals["frames"],
        "events": totals["events"],
        "fps": {name: round(pipeline["fps"], 1) for name, pipeline in pipelines},
        "rollouts": rollouts,
        "rolled_back": [rolled_back],
        "outbox_lost": lost,
    }


def _readable(summary: dict[str, Any]) -> str:
    counts = ", ".join(f"{summary[key]} {key}" for key in ("devices", "frames", "events"))
    lines = [f"{counts}, {summary['outbox_lost']} messages lost, {summary['seconds']} s"]
    lines += [
        f"rollout of {r['model']} {r['version']}: {r['state']} {r['reason']}" for r in summary["rollouts"]
    ]
    lines.append("everything happened as told" if summary["ok"] else "NOT everything happened as told")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
