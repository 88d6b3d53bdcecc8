"""``edgekit-fleet serve``: the fleet manager as one process, with the broker as a child process."""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.base.files import write_durably
from edgekit.base.notify import Notifier
from edgekit.core.errors import ConfigError
from edgekit_fleet.cli.listening import listen
from edgekit_fleet.cli.target import ADDRESS_FILE

if TYPE_CHECKING:
    import uvicorn

    from edgekit_fleet.app.compose import Fleet
    from edgekit_fleet.app.options import Options

GRACE_S = 5
REQUEST_S = 15.0
"""A connection that has not sent the head of a request by then is closed."""
WELL_S = 10
"""systemd is told so often that the loop turns and messages are stored; its unit waits six times as long."""
SWITCH_INTERVAL_S = 2e-4
"""How long a thread waits for the interpreter while another one computes.

Storing gives it up at each statement of SQLite: with Python's 5 ms a pull of messages waited two seconds
behind one page.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="its data folder")
    parser.add_argument("--database", metavar="URL", help="sqlite:///PATH (default: in DIR)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument(
        "--port", type=int, default=8080, help="default 8080; 0: any free port, the same at each start"
    )
    parser.add_argument(
        "--tls", choices=("auto", "on", "off"), default="auto", help="auto: on, except on loopback"
    )
    parser.add_argument("--public-host", default="", metavar="NAME", help="how devices reach this machine")
    parser.add_argument(
        "--other-host", action="append", default=[], metavar="NAME", help="a name devices may still use"
    )
    parser.add_argument(
        "--broker",
        default="embedded",
        help="embedded; mosquitto (to be installed), for thousands of devices; mqtts://host:port",
    )
    parser.add_argument(
        "--broker-port",
        type=int,
        help="port of the broker that is started here, default 8883; 0: any free port",
    )
    parser.add_argument("--broker-tls", choices=("on", "off"), default="on", help="off: loopback only")
    parser.add_argument("--broker-ca", type=Path, metavar="FILE", help="CA of a broker that is not embedded")
    parser.add_argument(
        "--broker-cert", type=Path, metavar="FILE", help="the fleet manager's certificate for that broker"
    )
    parser.add_argument("--broker-key", type=Path, metavar="FILE", help="key of that certificate")


def run(arguments: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT; print one line once everything runs.

    Raises:
        ConfigError: Another fleet manager runs on the data folder, or a file in it is damaged.
        StorageError: The address is taken, or the folder cannot be written.
        LinkError: The broker does not start, or cannot be reached.
    """
    from edgekit_fleet.app.application import create_app
    from edgekit_fleet.app.compose import Fleet

    sys.setswitchinterval(SWITCH_INTERVAL_S)
    os.umask(0o077)  # what a fleet keeps is its owner's alone; the broker inherits this
    with _only_one(arguments.data), contextlib.closing(_Stops()) as stops, _notifier() as notifier:
        fleet = Fleet(_options(arguments))
        address_file = fleet.services.settings.data / ADDRESS_FILE
        try:
            options = fleet.options
            with listen(options.host, fleet.port, is_tls=options.is_tls) as listener:
                fleet.start()
                app = create_app(fleet.services)
                gc.freeze()  # what stays: to look at it for garbage held up all threads for 0.3 s
                _serve(
                    app,
                    listener,
                    fleet.server_files(),
                    stops,
                    keep_certificate=fleet.keep_https,
                    is_ready=lambda: _announce(fleet, address_file, notifier, is_json=arguments.json),
                    each_while=lambda: _tell_well(fleet, notifier),
                    at_stop=fleet.services.bus.close,
                )
        finally:
            address_file.unlink(missing_ok=True)
            fleet.stop()


def _options(arguments: argparse.Namespace) -> Options:
    from edgekit_fleet.app.options import Options

    return Options(
        data=arguments.data,
        database=arguments.database,
        broker=arguments.broker,
        host=arguments.host,
        port=arguments.port,
        tls=arguments.tls,
        public_host=arguments.public_host,
        other_hosts=tuple(arguments.other_host),
        broker_port=arguments.broker_port,
        broker_tls=arguments.broker_tls,
        broker_ca=arguments.broker_ca,
        broker_certificate=arguments.broker_cert,
        broker_key=arguments.broker_key,
    )


def _notifier() -> contextlib.closing[Notifier]:
    return contextlib.closing(Notifier(os.environ.get("NOTIFY_SOCKET", "")))


def _tell_well(fleet: Fleet, notifier: Notifier) -> None:
    """Feed systemd's watchdog, from the loop that answers, unless the thread that stores messages is gone."""
    if fleet.ingest.is_running:
        notifier.tell("WATCHDOG=1")


def _announce(fleet: Fleet, address_file: Path, notifier: Notifier, *, is_json: bool) -> None:
    """Write where the fleet manager can be reached, for commands on this machine and for people."""
    from edgekit_fleet.store.sessions import Sessions
    from edgekit_fleet.ui import signin

    settings = fleet.services.settings
    ready = {
        "url": settings.url,
        "broker_url": settings.broker_url,
        "admin_token_file": str(fleet.admin_token_file),
        "ca": str(fleet.authority.certificate_path) if fleet.options.is_tls else "",
    }
    write_durably(address_file, json.dumps({**ready, "url": fleet.local_url}).encode())
    print(f"edgekit fleet: {settings.url}  broker: {settings.broker_url}", file=sys.stderr)
    is_watched = is_json or sys.stderr.isatty()  # a service's log keeps no link that signs in
    if is_watched and settings.is_loopback:
        token, sessions = fleet.admin_token_file.read_text(), Sessions(fleet.services.database)
        ready["login_url"] = signin.link(fleet.services.tokens, sessions, fleet.local_url, token)
        print(f"open within 15 minutes: {ready['login_url']}", file=sys.stderr)
    if is_json:
        print(json.dumps(ready), flush=True)
    notifier.tell("READY=1")


class _Stops:
    """Handles SIGTERM and SIGINT from the beginning, so that a stop during the start is not lost."""

    def __init__(self) -> None:
        self.asked = False
        self.then: Callable[[], None] = lambda: None
        self._before = {
            number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)
        }

    def _ask(self, _number: int, _frame: object) -> None:
        self.asked = True
        self.then()

    def close(self) -> None:
        """Restore the previous handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)


def _serve(
    app: Any,
    listener: socket.socket,
    files: tuple[Path, Path] | None,
    stops: _Stops,
    *,
    keep_certificate: Callable[[Callable[[], None]], None],
    is_ready: Callable[[], None],
    each_while: Callable[[], None],
    at_stop: Callable[[], None],
) -> None:
    import uvicorn

    class Server(uvicorn.Server):
        """Leaves signals to ``_Stops``, and calls ``is_ready`` once it accepts requests."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                is_ready()

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            at_stop()  # else live streams delay the shutdown
            await super().shutdown(sockets)

    async def tell() -> None:
        each_while()

    config = _config(app, files)
    config.callback_notify, config.timeout_notify = tell, WELL_S
    server = Server(config)
    if files is not None:
        certificate, key = files
        config.load()
        context = config.ssl
        assert context is not None
        keep_certificate(lambda: context.load_cert_chain(certificate, key))

    def stop() -> None:
        server.should_exit = True

    stops.then = stop
    if not stops.asked:
        server.run(sockets=[listener])


def _config(app: Any, files: tuple[Path, Path] | None) -> uvicorn.Config:
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Impatient(H11Protocol):
        """Closes connections that never ask for anything."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.loop.call_later(REQUEST_S, self._give_up)

        def _give_up(self) -> None:
            has_asked = bool(self.cycle)
            if not has_asked and not self.transport.is_closing():
                self.transport.close()

    return uvicorn.Config(
        app,
        loop="asyncio",  # accepts by the listener's own method, which bounds the connections
        http=Impatient,  # h11 bounds the head of a request; the other parser does not
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
        lifespan="off",
        ws="none",
        ssl_certfile=str(files[0]) if files else None,
        ssl_keyfile=str(files[1]) if files else None,
    )


@contextlib.contextmanager
def _only_one(data: Path) -> Iterator[None]:
    """Lock the data folder: two fleet managers on the same data would corrupt it.

    Raises:
        ConfigError: Another fleet manager runs on it.
    """
    import fcntl

    data.mkdir(parents=True, exist_ok=True)
    with (data / "serve.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as cause:
            raise ConfigError(
                f"{data}: another fleet manager runs on this folder", hint="stop it first"
            ) from cause
        yield
