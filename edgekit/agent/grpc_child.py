"""The process that answers gRPC before a server's HTTP address: started with it, and again if it ends."""

from __future__ import annotations

import importlib.util
import logging
import subprocess
import sys

from edgekit.agent.reactor import Reactor
from edgekit.base.child import exit_reason
from edgekit.base.install_hint import install_hint
from edgekit.core.errors import ConfigError, UsageError
from edgekit.serve.address import Address

logger = logging.getLogger(__name__)
_TICK_S = 0.5
_WAIT_S = 5.0


class GrpcChild:
    """One gateway at ``port`` of the host that an address names; methods belong to the reactor's thread.

    Raises:
        ConfigError: The libraries of the extra ``grpc`` are not installed.
        UsageError: The server speaks TLS only, or is at a UNIX socket only.
    """

    def __init__(self, reactor: Reactor, address: Address, port: int) -> None:
        if importlib.util.find_spec("grpc") is None or importlib.util.find_spec("google.protobuf") is None:
            raise ConfigError("gRPC needs grpcio and protobuf", hint=install_hint("grpc"))
        if not address.host:
            raise UsageError("--grpc-port needs --host or --port: gRPC is at the same host")
        if address.certificate is not None and address.uds is None:
            raise UsageError("--grpc-port with TLS needs --uds, by which the gateway reaches the server")
        self._reactor, self._uds = reactor, address.uds
        host = f"[{address.host}]" if ":" in address.host else address.host
        self._address = f"{host}:{port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._command: list[str] = []
        self._due_s = 0.0

    def start(self, url: str) -> None:
        """Start the gateway to the server at a URL, and keep it running."""
        target = url if self._uds is None else f"unix:{self._uds}"
        words = ["--target", target, "--address", self._address, "--dies-with-parent"]
        self._command = [sys.executable, "-m", "edgekit.serve.grpc", *words]
        self._check()
        self._reactor.every(_TICK_S, self._check)

    def stop(self) -> None:
        """End it."""
        self._command = []
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def _check(self) -> None:
        if not self._command:
            return
        if self._process is not None and (code := self._process.poll()) is not None:
            logger.error("the gRPC gateway ended (%s); started again", exit_reason(code))
            self._process, self._due_s = None, self._reactor.now_s() + _WAIT_S
        if self._process is None and self._reactor.now_s() >= self._due_s:
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL)
