"""A pipeline as the device's page shows it, and the page of ``edgekit run --view``."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from edgekit.agent.access import LOOPBACK
from edgekit.core.egress import ENVELOPE, HEALTH
from edgekit.core.errors import ConfigError, EdgekitError, UsageError
from edgekit.core.tasks import TASKS
from edgekit.pipeline.kept_clips import KeptClips
from edgekit.pipeline.picture import thumbnail
from edgekit.pipeline.shape_file import ShapeFile
from edgekit.pipeline.view import ViewSink, frame_document
from edgekit.serve.address import Address, address_of, listening
from edgekit.serve.ports import Limits
from edgekit.serve.server import Server
from edgekit.serve.view.app import PageApp
from edgekit.serve.view.login import Login
from edgekit.serve.view.page import Page
from edgekit.serve.view.ports import Clip, Shown, Told

if TYPE_CHECKING:
    from edgekit.agent.ipc import Run
    from edgekit.pipeline.config import PipelineConfig
    from edgekit.pipeline.predictor import Predictor
    from edgekit.pipeline.switch import Switch
    from edgekit.sync.gate import Books, Gate

logger = logging.getLogger(__name__)
DEFAULT_PORT = 8008
SIDE_PX = 960
MOST_BYTES = 4 << 20
MOST_REASON = 200
_TOKEN_BYTES = 16
_JOIN_S = 10.0


class Tuned(Protocol):
    """Whoever changes a pipeline's thresholds while it runs."""

    @property
    def predictor(self) -> Predictor:
        """What runs now."""

    def retune(self, score_threshold: float) -> None:
        """Decode with another threshold from the next frame on."""


class PipelineView:
    """One pipeline, behind the egress gate; satisfies ``edgekit.serve.view.ports.View``.

    Args:
        config: The pipeline.
        sink: What its loop writes to.
        tuned: Changes its thresholds.
        switch: Stops and starts it, and chooses its profile.
        gate: Decides what a browser on another machine may see; None where only this machine can.
        books: Where the bytes are recorded that leave.
        file: The pipeline's, where it has one of its own.
        apply: Has zones and lines take effect once they are saved; returns when they do.
    """

    def __init__(
        self,
        config: PipelineConfig,
        sink: ViewSink,
        tuned: Tuned,
        switch: Switch,
        gate: Gate | None,
        books: Books | None,
        file: ShapeFile | None = None,
        apply: Callable[[], str] = lambda: "at the next start",
    ) -> None:
        self._file, self._apply = file, apply
        self.name, self._has_track = config.pipeline.name, config.track is not None
        self._sink, self._tuned, self._gate, self._books = sink, tuned, gate, books
        self._switch = switch
        self.watched = sink.watched
        folders = [
            Path(config.folder, s.options.path).expanduser() for s in config.sinks if s.kind == "clips"
        ]
        self._kept = KeptClips(folders[0]) if folders else None

    @property
    def number(self) -> int:
        """The number of the newest frame; 0 before the first."""
        return self._sink.number

    def frame(self) -> Shown | None:
        """Return the newest frame, encoded now; None until the next one, if nobody has asked lately."""
        latest = self._sink.latest()
        if latest is None:
            return None
        number, result = latest
        document, pixels = frame_document(result), result.frame.data
        size = {name: document.pop(name) for name in ("width", "height")}
        payload, enter = self._packed(document)
        may_show = self._gate is None or self._gate.allows("pixels")
        image = (thumbnail(pixels, SIDE_PX, MOST_BYTES) or b"") if may_show else b""
        about = msgspec.json.encode({**size, "hidden": bool(size["width"]) and not may_show})
        head = about[:-1] + (b"," + payload[1:] if len(payload) > 2 else b"}")

        def sent(client: str, total: int) -> None:
            enter(client, total - len(image))
            if image:
                self._enter("pixels", client, len(image))

        return Shown(number, head, image, sent)

    def events(self, after: int) -> list[Told]:
        """Return the kept events with a number above ``after``, oldest first."""
        return [Told(number, *self._packed(document)) for number, document in self._sink.events(after)]

    def figures(self) -> Told:
        """Return what runs, its rate and latency, how its switch stands, and the settings to change."""
        turned = {"words": self._switch.words, **msgspec.to_builtins(self._switch.turned)}
        document = {**self._sink.figures(), "settings": self._settings(), "switch": turned}
        return Told(0, msgspec.json.encode(document), self._as_health)

    def _settings(self) -> dict[str, Any]:
        predictor = self._tuned.predictor
        task = TASKS.get(predictor.manifest.task)
        if self._has_track or task is None or "scores" not in task.egress:
            return {}  # a tracker needs the boxes of low scores, and has thresholds of its own
        return {"score_threshold": round(predictor.post.score_threshold, 4)}

    def shapes(self) -> Told:
        """Return the zones and lines of the pipeline's file, or why they cannot be changed here."""
        try:
            document: dict[str, Any] = self._shape_file().shapes()
        except EdgekitError as error:
            document = {"why": error.one_line()}
        return Told(0, msgspec.json.encode(document), self._as_health)

    def save(self, wanted: dict[str, Any]) -> str:
        """Write zones and lines into the pipeline's file; return when they take effect.

        Raises:
            UsageError: The pipeline has no file of its own.
            ConfigError: They are not valid; the file is as before.
            StorageError: It cannot be written.
        """
        self._shape_file().save(wanted)
        return self._apply()

    def _shape_file(self) -> ShapeFile:
        if self._file is None:
            raise UsageError(f"pipeline {self.name!r} has no file of its own")
        return self._file

    def clips(self, words: str) -> Told:
        """Return the newest kept clips whose events say all ``words``, or why there are none."""
        if (why := self._why_no_clips()) or self._kept is None:
            return Told(0, msgspec.json.encode({"why": why}), self._as_health)
        rows = self._kept.newest(words)
        packed = [self._packed({"events": row.pop("events")}) for row in rows]
        bodies = [
            msgspec.json.encode(row)[:-1] + b"," + events[1:]
            for row, (events, _) in zip(rows, packed, strict=True)
        ]

        def sent(client: str, size: int) -> None:
            for (_, enter), row in zip(packed, bodies, strict=True):
                enter(client, len(row))
            self._enter(ENVELOPE, client, size - sum(map(len, bodies)))

        return Told(0, b'{"clips":[%b]}' % b",".join(bodies), sent)

    def clip(self, name: str) -> Clip:
        """Return one clip.

        Raises:
            UsageError: There is none of this name, or no picture may leave.
        """
        path = None if self._kept is None else self._kept.path(name)
        if (why := self._why_no_clips()) or path is None:
            raise UsageError(why or f"there is no clip {name[:80]!r}")
        return Clip(path, lambda client, size: self._enter("pixels", client, size))

    def _why_no_clips(self) -> str:
        if self._kept is None:
            return "this pipeline has no clips sink"
        if self._gate is not None and not self._gate.allows("pixels"):
            return 'clips stay on the device: "pixels" is not in [privacy] egress of this pipeline'
        return ""

    def _as_health(self, client: str, size: int) -> None:
        self._enter(HEALTH, client, size)

    def change(self, wanted: dict[str, Any]) -> None:
        """Change ``score_threshold`` from the next frame on.

        Raises:
            UsageError: There is no such setting, or its value is out of range.
        """
        value = wanted.get("score_threshold")
        if set(wanted) != {"score_threshold"} or not self._settings():
            raise UsageError(
                f"want score_threshold, of a model with scores, got {', '.join(wanted) or 'nothing'}"
            )
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= 1:
            raise UsageError(f"score_threshold: want a number from 0 to 1, got {value!r}")
        self._tuned.retune(float(value))

    def turn(self, wanted: dict[str, Any]) -> None:
        """Turn the pipeline's switch, as ``{"to": "off", "reason": "the door is being painted"}`` says.

        Raises:
            UsageError: It cannot be turned to that.
            StorageError: It cannot be kept.
        """
        to, reason = wanted.get("to"), wanted.get("reason", "the page")
        if not {"to"} <= set(wanted) <= {"to", "reason"} or not isinstance(to, str):
            raise UsageError(f"want to (one of {', '.join(self._switch.words)}), and a reason")
        if not isinstance(reason, str) or len(reason) > MOST_REASON:
            raise UsageError(f"reason: want text of at most {MOST_REASON} characters")
        self._switch.command(to, reason)

    def _packed(self, document: dict[str, Any]) -> tuple[bytes, Callable[[str, int], None]]:
        """Return what of a document the page may show, and what records that it was sent."""
        if (gate := self._gate) is None:
            return msgspec.json.encode(document), lambda _client, _size: None
        if (packed := gate.pack(document)) is None:
            return b"{}", lambda client, size: self._enter(ENVELOPE, client, size)

        def sent(client: str, size: int) -> None:
            gate.enter(packed, client)
            self._enter(ENVELOPE, client, size - len(packed.payload))

        return packed.payload, sent

    def _enter(self, data_class: str, client: str, size: int) -> None:
        if self._gate is not None and self._books is not None:
            self._books.add(self.name, data_class, client, "passed", size)


def gate_of(config: PipelineConfig, books: Books, *, is_local: bool) -> Gate | None:
    """Return the gate between a pipeline and the page; None where only this machine can reach the page."""
    from edgekit.sync.gate import Gate

    return None if is_local else Gate(config.pipeline.name, config.privacy.egress, books, "page")


def shape_file_of(request: Run) -> ShapeFile | None:
    """Return the file of an agent's pipeline; None where its tables stand in ``agent.toml``."""
    path = Path(request.what)
    return ShapeFile(path) if path.is_file() else None


def reload_agent() -> str:
    """Have the agent read its pipelines' files again, which starts those that changed."""
    os.kill(os.getppid(), signal.SIGHUP)
    return "now"


@dataclass(frozen=True)
class PageOptions:
    """Where the page of one pipeline listens; ``on_open`` is called with its link."""

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    on_open: Callable[[str], object] = lambda _link: None

    @property
    def is_local(self) -> bool:
        """Whether no other machine can reach it."""
        return self.host in LOOPBACK

    def address(self) -> Address:
        """Return where to listen.

        Raises:
            UsageError: The port is out of range.
        """
        if not 0 <= self.port <= 65535:
            raise UsageError(f"--view-port: want a number from 0 to 65535, got {self.port}")
        return address_of(self.host, self.port, None, None, None)


@contextlib.contextmanager
def page_of(
    options: PageOptions,
    config: PipelineConfig,
    tuned: Tuned,
    switch: Switch,
    books: Books,
    path: Path | None,
) -> Iterator[ViewSink]:
    """Serve a pipeline's page in a thread of its own; yield the sink that feeds it.

    ``path``: the pipeline's file, if it has one.

    Raises:
        ConfigError: The address cannot be used, or uvicorn is not installed.
    """
    sink, gate = ViewSink(), gate_of(config, books, is_local=options.is_local)
    file = None if path is None else ShapeFile(path)
    with open_page(options, PipelineView(config, sink, tuned, switch, gate, books, file), sink):
        yield sink


@contextlib.contextmanager
def open_page(options: PageOptions, view: PipelineView, sink: ViewSink) -> Iterator[None]:
    """Serve a page in a thread of its own; raises as ``page_of``."""
    with _listening(options) as (sockets, url):
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        page = Page(lambda: {view.name: view}, Login(token, is_tls=False))
        server = Server(PageApp(page), Limits())
        thread = threading.Thread(target=server.run, args=(sockets,), name="page", daemon=True)
        thread.start()
        if not options.is_local:
            logger.warning("the page and its token cross the network in clear")
        options.on_open(f"{url}/?token={token}")
        try:
            yield
        finally:
            page.close()
            sink.close()  # wakes whoever waits for a frame
            server.stop()
            thread.join(_JOIN_S)


@contextlib.contextmanager
def _listening(options: PageOptions) -> Iterator[tuple[list[socket.socket], str]]:
    with contextlib.ExitStack() as stack:
        try:
            sockets, urls = stack.enter_context(listening(options.address()))
        except ConfigError as error:
            raise ConfigError(error.message, hint="give another --view-port, or 0 for a free one") from error
        for bound in sockets:
            bound.listen()  # until one does, another process may bind the same port
        port = sockets[0].getsockname()[1]
        yield sockets, f"http://{_own_address()}:{port}" if options.host in _EVERY else urls[0]


_EVERY = frozenset({"0.0.0.0", "::"})  # noqa: S104 - what a person asks for, compared and not bound


def _own_address() -> str:
    """Return the address by which this machine's network knows it; its name where it has none.

    Connecting a datagram socket sends nothing: the kernel only chooses the interface.
    Source: RFC 5737: 192.0.2.0/24 is for documentation.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return socket.gethostname()
        return str(probe.getsockname()[0])
