"""An agent opens sockets to nothing but what its configuration names, through a whole update."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from agent_stage import ROOT, AgentStage, FleetStage
from bundles import make_bundle, pipeline_toml

HEAVY = (
    "numpy",
    "cryptography",
    "tuf",
    "fastapi",
    "cv2",
    "urllib3",
    "requests",
    "ai_edge_litert",
    "argparse",
)
# The supervisor's own entry, which writes down at its end what it had imported.
WRAPPER = """
import json, sys
from edgekit.agent.__main__ import main
code = main(sys.argv[2:])
with open(sys.argv[1], "w") as file:
    json.dump(sorted(sys.modules), file)
sys.exit(code)
"""


def tree(root: int) -> list[int]:
    """Return a process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def remotes(pid: int) -> set[str]:
    """Return the other ends of a process's internet sockets, and the paths of its UNIX sockets."""
    found: set[str] = set()
    with contextlib.suppress(OSError):
        inodes = set()
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if match := re.fullmatch(r"socket:\[(\d+)\]", str(entry.readlink())):
                    inodes.add(match[1])
        for kind in ("tcp", "tcp6", "udp", "udp6"):
            for line in Path(f"/proc/{pid}/net/{kind}").read_text().splitlines()[1:]:
                words = line.split()
                if words[9] in inodes:
                    address, _, port = words[2].rpartition(":")
                    ip = socket.inet_ntoa(bytes.fromhex(address)[::-1]) if len(address) == 8 else address
                    found.add(f"{ip}:{int(port, 16)}")
        for line in Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]:
            words = line.split()
            if words[6] in inodes and len(words) > 7:
                found.add(words[7])
    return found


def _environment(agent):
    """The variables of a device: ONNX Runtime would send nothing where it sees continuous integration."""
    kept = {name: text for name, text in os.environ.items() if name != "CI"}
    return kept | {"HOME": str(agent.folder)}  # without a home the C library asks its services


class Watch:
    """Looks again and again at the sockets of a process and its descendants."""

    def __init__(self, pid: int, every_s: float = 0.01) -> None:
        self.seen: set[str] = set()
        self._pid, self._every_s, self._stopping = pid, every_s, threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        while not self._stopping.wait(self._every_s):
            for pid in tree(self._pid):
                self.seen |= remotes(pid)

    def stop(self) -> set[str]:
        self._stopping.set()
        self._thread.join()
        return self.seen


# Not connected yet; and urllib3 asks whether this machine has IPv6 by binding to no port of loopback.
NOWHERE = {"0.0.0.0:0", "[::1]:0"}

pytestmark = pytest.mark.timeout(900)  # a busy machine; each wait has a limit of its own


def surprises(seen: set[str], allowed: set[str]) -> set[str]:
    """Return what was seen and is not allowed."""
    return {end for end in seen - NOWHERE if not any(end.endswith(one) for one in allowed)}


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sockets")
    fleet = FleetStage(folder)
    fleet.start()
    for version in ("1.0.0", "2.0.0"):
        make_bundle(folder / version, version=version, options={"seed": int(version[0])})
    (folder / "motor.toml").write_text(pipeline_toml(fps=50))
    agent = AgentStage(
        folder / "agent",
        '[[pipeline]]\nfile = "../motor.toml"\ninitial = "../1.0.0"\n',
        "progress_s = 0.2\n",
    )
    agent.enroll(fleet, "watched")
    fleet.publish(folder / "2.0.0")
    yield fleet, agent
    if agent.process is not None:
        agent.kill()
    fleet.stop()


def test_an_agent_talks_to_its_broker_its_fleet_and_its_own_socket_alone(stage):
    fleet, agent = stage
    modules = agent.folder / "modules.json"
    trace = agent.folder / "trace"
    command = [sys.executable, "-c", WRAPPER, str(modules), str(agent.config), str(agent.state)]
    strace = shutil.which("strace")
    if strace is not None:  # complete, where there is one; /proc is looked at in any case
        calls = "trace=connect,bind,sendto,sendmsg"
        command = [strace, "-f", "--seccomp-bpf", "-qq", "-e", calls, "-o", str(trace), *command]
    with agent.log.open("ab") as log:
        agent.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=_environment(agent),
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
    # looking keeps a core busy, which the agent needs too: strace misses nothing meanwhile
    watch = Watch(agent.process.pid) if strace is None else Watch(agent.process.pid, 0.1)
    try:
        agent.until(lambda s: s["link"]["connected"] and s["pipelines"]["motor"]["frames"] > 10, "work")
        fleet.cli(
            *("rollout", "create", "--model", "motion", "--version", "2.0.0"),
            *("--waves", "100%", "--soak-s", 1, "--p99-ratio", 0, "--error-ratio", 0),
        )
        status = agent.until(lambda s: s["models"]["motion"]["active"] == "2.0.0", "the update", 240)
        time.sleep(0.5)
    finally:
        seen = watch.stop()
    os.kill(status["pid"], 15)
    assert agent.process.wait(120) == 0
    agent.process = None

    urls = (fleet.url, fleet.ready["broker_url"])
    allowed = {f"127.0.0.1:{urlsplit(url).port}" for url in urls} | {"agent.sock"}
    assert any(end.endswith(str(urlsplit(urls[1]).port)) for end in seen), "the link was never seen"
    assert surprises(seen, allowed) == set()
    if strace is not None:
        assert surprises(called(trace.read_text(errors="replace")), allowed) == set()
    loaded = set(json.loads(modules.read_text()))
    assert loaded.isdisjoint(HEAVY), loaded & set(HEAVY)


def called(trace: str) -> set[str]:
    """Return the addresses that a trace's calls name."""
    found = set()
    for line in trace.splitlines():
        if match := re.search(r'sin_port=htons\((\d+)\).*?inet_addr\("([^"]+)"\)', line):
            found.add(f"{match[2]}:{match[1]}")
        elif match := re.search(r'sin6_port=htons\((\d+)\).*?inet_pton\(AF_INET6, "([^"]+)"', line):
            found.add(f"[{match[2]}]:{match[1]}")
        elif match := re.search(r'sun_path=@?"([^"]*)"', line):
            found.add(match[1])
    return found


def test_the_watch_sees_a_socket_that_nobody_named():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        code = f"import socket; s = socket.create_connection(('127.0.0.1', {port})); input()"
        with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as stranger:
            watch = Watch(stranger.pid)
            listener.accept()[0].close()
            deadline_s = time.monotonic() + 60
            while f"127.0.0.1:{port}" not in watch.seen and time.monotonic() < deadline_s:
                time.sleep(0.01)
            seen = watch.stop()
            stranger.kill()
    assert surprises(seen, {"agent.sock"}) == {f"127.0.0.1:{port}"}


def test_the_trace_names_every_kind_of_address():
    text = """
1 connect(3, {sa_family=AF_INET, sin_port=htons(443), sin_addr=inet_addr("93.184.216.34")}, 16) = 0
1 sendto(4, "", 0, 0, {sa_family=AF_INET6, sin6_port=htons(53), inet_pton(AF_INET6, "::1", &x)}, 28) = 0
1 connect(5, {sa_family=AF_UNIX, sun_path="/run/dbus/socket"}, 110) = 0
"""
    assert called(text) == {"93.184.216.34:443", "[::1]:53", "/run/dbus/socket"}
