"""``edgekit cameras``: what is attached or on the network, its streams, and the source to write."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from edgekit.base.command_line import Report
from edgekit.core.errors import UsageError
from edgekit.hardware.cameras import LocalCamera, local_cameras
from edgekit.hardware.onvif import MULTICAST, Login, OnvifCamera, best_two, discover, with_streams
from edgekit.pipeline.toml_text import toml_value

# Programs that give a sensor's pictures, by the receiver's driver; not run here.
_CSI = {
    "tegra": "nvarguscamerasrc ! nvvidconv ! video/x-raw,format=BGRx,width={width},height={height} "
    "! videoconvert",
    "": "libcamerasrc ! video/x-raw,width={width},height={height} ! videoconvert",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    parser.add_argument(
        "--sysfs-root", type=Path, default=Path("/"), metavar="DIR", help="read what is attached below DIR"
    )
    parser.add_argument("--no-network", action="store_true", help="leave out ONVIF cameras")
    parser.add_argument("--host", metavar="HOST[:PORT]", help="ask one camera, of another network")
    parser.add_argument("--wait", type=float, default=2.0, metavar="S", help="wait for answers (default 2)")
    parser.add_argument("--user", default="", metavar="NAME", help="of the cameras on the network")
    parser.add_argument("--password-file", type=Path, metavar="FILE", help="its first line is the password")


def run(args: argparse.Namespace) -> Report:
    """List the cameras."""
    if not 0 < args.wait <= 60:
        raise UsageError(f"--wait: want seconds above 0, at most 60, got {args.wait:g}")
    rows = [_local_row(camera) for camera in local_cameras(args.sysfs_root)]
    if not args.no_network and (args.host or args.sysfs_root.resolve() == Path("/")):
        login = Login(args.user, _password(args.password_file))
        found = (with_streams(camera, login) for camera in discover(args.wait, _target(args.host)))
        rows += [_network_row(camera, args) for camera in found]
    answered = any(row["kind"] == "onvif" for row in rows)
    silent = f"{args.host} did not answer within {args.wait:g} s" if args.host and not answered else ""
    return Report({"cameras": rows}, text(rows, silent))


def _target(host: str | None) -> tuple[str, int]:
    if host is None:
        return MULTICAST
    name, colon, port = host.partition(":")
    number = int(port) if port.isascii() and port.isdigit() and len(port) < 6 else 0
    if not name or (colon and not 0 < number < 1 << 16):
        raise UsageError(f"--host: want HOST or HOST:PORT (a name or an IPv4 address), got {host!r}")
    return name, number or MULTICAST[1]


def _password(file: Path | None) -> str:
    if file is None:
        return ""
    try:
        return file.read_text(encoding="utf-8").partition("\n")[0].rstrip("\r")
    except (OSError, UnicodeDecodeError) as cause:
        raise UsageError(f"--password-file {file}: cannot be read: {cause}") from cause


def _local_row(camera: LocalCamera) -> dict[str, Any]:
    options: dict[str, Any] = {"kind": "camera", "uri": camera.uri}
    if camera.kind == "csi":
        middle = next(text for start, text in _CSI.items() if camera.driver.startswith(start))
        words = f"gst-launch-1.0 -q {middle} ! video/x-raw,format=BGR ! fdsink fd=1".split()
        options = {"kind": "command", "width": 640, "height": 480, "command": words}
    return _row(camera.kind, camera.name, camera.uri, options, problem=camera.problem)


def _network_row(camera: OnvifCamera, args: argparse.Namespace) -> dict[str, Any]:
    if not camera.streams:
        return _row("onvif", camera.name, camera.service, None, problem=camera.problem)
    small, large = best_two(camera.streams)
    options = {"kind": "rtsp", "uri": small.uri, "main_uri": large.uri if large != small else ""}
    if args.user:
        options |= {"user": args.user, "password_file": str((args.password_file or Path()).resolve())}
    streams = [
        {"uri": s.uri, "codec": s.codec, "width": s.width_px, "height": s.height_px} for s in camera.streams
    ]
    return _row("onvif", camera.name, small.uri, options, streams=streams)


def _row(
    kind: str,
    name: str,
    uri: str,
    options: dict[str, Any] | None,
    *,
    streams: list[dict[str, Any]] | None = None,
    problem: str = "",
) -> dict[str, Any]:
    lines = [f"{key} = {toml_value(value)}" for key, value in (options or {}).items() if value]
    toml = "\n".join(["[source]", *lines]) + "\n" if options else ""
    return {
        "kind": kind,
        "name": name,
        "uri": uri,
        "streams": streams or [],
        "problem": problem,
        "toml": toml,
    }


def text(rows: list[dict[str, Any]], silent: str) -> str:
    """Return the cameras as a table, and the source of each as TOML; ``silent`` says who did not answer."""
    if not rows:
        return f"no camera is attached, and {silent or 'none on the network answered'}"
    lines = [f"{'kind':<7}{'name':<32}use"]
    for row in rows:
        lines.append(f"{row['kind']:<7}{row['name'][:30]:<32}{row['problem'] or row['uri']}")
        lines += [
            f"       {stream['codec']} {stream['width']}x{stream['height']}: {stream['uri']}"
            for stream in row["streams"]
        ]
    for row in rows:
        if row["toml"]:
            lines += ["", f"# {row['name']}", row["toml"].rstrip()]
    return "\n".join([*lines, *filter(None, [silent])])
