"""Delivery of payloads to one HTTP address, from a bounded queue on disk, on a thread of its own."""

import base64
import hashlib
import hmac
import logging
import random
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec

from edgekit.base.http import Patience, Web
from edgekit.core.addresses import split_address
from edgekit.core.errors import ConfigError, EdgekitError, StorageError, TrustError
from edgekit.core.ports import nothing
from edgekit.sync.gate import Packed
from edgekit.sync.publisher import PublisherState
from edgekit.sync.store import DAMAGE, move_aside
from edgekit.version import __version__

logger = logging.getLogger(__name__)

MAX_ROWS, MAX_BYTES = 10_000, 32 << 20
"""Of the queue on disk; over it the oldest are dropped."""
MAX_PENDING = 1000
"""Payloads that may wait in memory for the disk."""
MAX_DELAY_S = 300.0
TRIES = 20
"""Answers of 5xx to one payload, while others are taken, before it is given up."""
ANSWER_S = 15.0
_MAX_ANSWER_BYTES = 1 << 20
_LATER = frozenset({408, 425, 429, 502, 503, 504})
"""The server can take nothing now. Source: RFC 9110, 15.5 and 15.6; RFC 6585, 4; RFC 8470, 5.2."""
_CLOSING_S = 2.0
_DISK_S = 5.0  # before the disk is tried again
_PEEK = 32
_SCHEMA = """
CREATE TABLE IF NOT EXISTS queue(
  number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, body BLOB NOT NULL, taken TEXT NOT NULL,
  tries INTEGER NOT NULL DEFAULT 0)
"""

_Pending = tuple[str, Packed, Callable[[], object]]


class Target(msgspec.Struct, frozen=True):
    """Where payloads go: an http or https URL, the trusted CA (None: the system's), and the credentials."""

    url: str
    content_type: str
    ca: Path | None = None
    secret: str = ""
    token: str = ""

    @property
    def destination(self) -> str:
        """``host:port``: the only part of a URL that is shown, since the others often hold a secret.

        Raises:
            ConfigError: It is not an http or https URL, or has credentials in it.
        """
        try:
            parts = split_address(self.url)
        except ValueError as problem:
            raise ConfigError(f"url: {problem}", hint="use token_file for a login") from problem
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"url: want http:// or https:// with a host, got {parts.scheme or 'no'}://")
        if parts.username or parts.password:
            raise ConfigError("url: want no user and password in it", hint="use token_file")
        return f"{parts.hostname}:{parts.port or {'http': 80, 'https': 443}[parts.scheme]}"


def signature(secret: str, message_id: str, unix_s: int, body: bytes) -> str:
    """Return the value of the header ``webhook-signature``.

    ``secret`` is text, or ``whsec_`` and base64.

    >>> signature(
    ...     "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    ...     "msg_p5jXN8AQM9LWM0D4loKWxJek",
    ...     1614265330,
    ...     b'{"test": 2432232314}',
    ... )
    'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE='

    Source: Standard Webhooks 1.0.0, "Signature scheme" (HMAC-SHA256 over id, timestamp and body, joined by
    dots).
    """
    key = base64.b64decode(secret.removeprefix("whsec_")) if secret.startswith("whsec_") else secret.encode()
    signed = f"{message_id}.{unix_s}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


class Webhook:
    """Posts each payload until the server takes it; neither ``put`` nor a dead server blocks the caller.

    The queue is a SQLite file, so what was put is sent after a restart or ``kill -9``, but for what came in
    the last milliseconds. A status of 2xx takes a payload. 408, 425, 429, 5xx and a failed connection are
    tried again, with waits that double to ``MAX_DELAY_S``; a 5xx other than 502 to 504 lets the others pass.
    Every other status refuses it: it is given up, counted, and logged.

    Args:
        target: Where to.
        path: The queue's file; one process at a time.
        on_sent: Called on this thread each time a payload is handed to the network.
        permits: Returns whether a payload of an earlier start may leave now; if not, it is dropped.

    Raises:
        ConfigError: The URL or the CA cannot be used.
        StorageError: The queue cannot be opened.
    """

    def __init__(
        self,
        target: Target,
        path: Path,
        on_sent: Callable[[Packed], None],
        permits: Callable[[Packed], bool] = lambda _: True,
    ) -> None:
        self._target, self._path, self._on_sent = target, path, on_sent
        self.destination = target.destination
        if target.ca is not None and not target.ca.exists():
            raise ConfigError(f"ca: there is no file {target.ca}")
        Web(target.ca, Patience(time.monotonic() + 1, 1))  # raises now for a wrong file
        self._db = self._opened()
        self._refused = self._drop_refused(permits)
        counted = self._db.execute("SELECT count(*), total(length(body)) FROM queue").fetchone()
        self._rows, self._bytes = int(counted[0]), int(counted[1])
        self._pending: deque[_Pending] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._ends_s = 0.0
        self._sent = self._dropped = 0
        self._problem = ""
        self._is_up = False
        self._attempt = 0
        self._rest_until_s = self._disk_until_s = 0.0
        self._not_before: dict[int, float] = {}
        self._thread = threading.Thread(target=self._run, name=f"post-{self.destination}", daemon=True)
        self._thread.start()

    def put(self, message_id: str, packed: Packed, on_kept: Callable[[], object] = nothing) -> None:
        """Queue a payload without waiting; ``on_kept`` is called once it is on disk, or dropped."""
        with self._changed:
            is_closed, is_full = self._closing, len(self._pending) >= MAX_PENDING
            if is_closed or is_full:
                self._dropped += 1
            else:
                self._pending.append((message_id, packed, on_kept))
                self._changed.notify_all()
        if is_full and not is_closed:
            on_kept()

    def state(self) -> PublisherState:
        """Return the counts so far; ``unsent`` payloads are kept for the next start."""
        with self._changed:
            return PublisherState(
                is_connected=self._is_up,
                sent=self._sent,
                unsent=self._rows + len(self._pending),
                dropped=self._dropped,
                refused=self._refused,
                problem=self._problem,
            )

    def close(self, timeout_s: float = 5.0) -> None:
        """Try for at most ``timeout_s`` to send what waits, less if the server fails; safe to call twice."""
        with self._changed:
            if not self._closing:
                self._closing = True
                self._ends_s = time.monotonic() + (timeout_s if self._is_up else min(timeout_s, _CLOSING_S))
            self._changed.notify_all()
        self._thread.join(timeout_s + ANSWER_S)

    # -- its own thread

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing, self._disk_until_s - time.monotonic())
                self._changed.wait_for(lambda: self._pending or self._closing, self._idle_s())
                pending = list(self._pending)
            row = None
            try:
                self._store(pending)
                row = self._due()
                if row is not None:
                    self._try(*row)
            except sqlite3.Error as cause:
                self._disk_until_s = time.monotonic() + _DISK_S
                self._note(f"the queue {self._path}: {cause}", is_up=False)
            is_late = time.monotonic() >= self._ends_s
            if self._closing and (row is None or is_late or self._problem):
                break
        self._db.close()

    def _idle_s(self) -> float:
        """Return how long to wait for another payload before the next try."""
        if not self._rows:
            return 3600.0
        now_s = time.monotonic()
        if self._rest_until_s > now_s:
            return self._rest_until_s - now_s
        waits = [until_s - now_s for until_s in self._not_before.values()]
        return max(0.0, min(waits)) if len(waits) >= min(self._rows, _PEEK) else 0.0

    def _due(self) -> tuple[int, str, bytes, str, int] | None:
        now_s = time.monotonic()
        if now_s < self._rest_until_s and not self._closing:
            return None
        rows: list[tuple[int, str, bytes, str, int]] = self._db.execute(
            "SELECT number, id, body, taken, tries FROM queue ORDER BY number LIMIT ?", (_PEEK,)
        ).fetchall()
        return next((row for row in rows if self._not_before.get(row[0], 0.0) <= now_s), None)

    def _try(self, number: int, message_id: str, body: bytes, taken: str, tries: int) -> None:
        self._on_sent(Packed(body, msgspec.json.decode(taken, type=dict[str, int])))
        try:
            status = self._post(message_id, body)
        except EdgekitError as cause:
            self._failed(self._reason(cause))
            return
        if status in _LATER:
            self._failed(f"the server answered {status}")
        elif status >= 500 and tries + 1 < TRIES:
            self._db.execute("UPDATE queue SET tries = tries + 1 WHERE number = ?", (number,))
            self._not_before[number] = time.monotonic() + _delay_s(tries + 1)
            self._note(f"the server answered {status}", is_up=True)
        else:
            self._done(number, len(body), status)

    def _post(self, message_id: str, body: bytes) -> int:
        target, unix_s = self._target, int(time.time())
        headers = {"Content-Type": target.content_type, "User-Agent": f"edgekit/{__version__}"}
        if target.token:
            headers["Authorization"] = f"Bearer {target.token}"
        if target.secret:
            headers |= {
                "webhook-id": message_id,
                "webhook-timestamp": str(unix_s),
                "webhook-signature": signature(target.secret, message_id, unix_s, body),
            }
        web = Web(target.ca, Patience(time.monotonic() + ANSWER_S, ANSWER_S), silence_s=ANSWER_S)
        return web.send("POST", target.url, _MAX_ANSWER_BYTES, body, headers)[0]

    def _reason(self, cause: EdgekitError) -> str:
        if isinstance(cause, TrustError):
            why = getattr(cause.__cause__, "verify_message", "it is not trusted")
            return f"the server's certificate is refused: {why}; name its CA by the key 'ca'"
        return cause.message.replace(self._target.url, self.destination)

    def _done(self, number: int, size: int, status: int) -> None:
        self._db.execute("DELETE FROM queue WHERE number = ?", (number,))
        self._not_before.pop(number, None)
        is_taken = 200 <= status < 300
        with self._changed:
            self._rows, self._bytes = self._rows - 1, self._bytes - size
            self._sent, self._refused = self._sent + is_taken, self._refused + (not is_taken)
        self._attempt = 0
        self._note("" if is_taken else f"the server refused an event: it answered {status}", is_up=True)

    def _failed(self, problem: str) -> None:
        self._attempt += 1
        self._rest_until_s = time.monotonic() + _delay_s(self._attempt)
        self._note(problem, is_up=False)

    def _note(self, problem: str, *, is_up: bool) -> None:
        if problem and problem != self._problem:
            logger.warning("webhook %s: %s", self.destination, problem)
        with self._changed:
            self._problem, self._is_up = problem, is_up

    # -- the file

    def _opened(self) -> sqlite3.Connection:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            try:
                return _open(self._path)
            except sqlite3.OperationalError:
                raise
            except DAMAGE as cause:
                logger.error("%s is damaged and moved aside: %s", self._path, cause)  # noqa: TRY400 - it says it all
                move_aside(self._path)
                return _open(self._path)
        except (OSError, sqlite3.Error) as cause:
            raise StorageError(
                f"webhook queue {self._path}: {cause}", hint="one process at a time runs a pipeline of a name"
            ) from cause

    def _drop_refused(self, permits: Callable[[Packed], bool]) -> int:
        """Drop what waits from an earlier start and may not leave any more; return how many."""
        rows = self._db.execute("SELECT number, body, taken FROM queue").fetchall()
        gone = [
            (number,)
            for number, body, taken in rows
            if not permits(Packed(body, msgspec.json.decode(taken, type=dict[str, int])))
        ]
        if gone:
            logger.warning("webhook %s: %d queued events may not leave any more", self.destination, len(gone))
            self._db.executemany("DELETE FROM queue WHERE number = ?", gone)
        return len(gone)

    def _store(self, pending: list[_Pending]) -> None:
        """Move what waits in memory to the file, and drop the oldest over the bounds."""
        if not pending:
            return
        rows = [(name, packed.payload, msgspec.json.encode(packed.taken)) for name, packed, _ in pending]
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany("INSERT INTO queue(id, body, taken) VALUES(?, ?, ?)", rows)
        size = sum(len(row[1]) for row in rows)
        with self._changed:
            for _ in pending:
                self._pending.popleft()
            self._rows, self._bytes = self._rows + len(rows), self._bytes + size
        for _, _, on_kept in pending:
            on_kept()
        while self._rows > MAX_ROWS or self._bytes > MAX_BYTES:
            number, size = self._db.execute(
                "SELECT number, length(body) FROM queue ORDER BY number LIMIT 1"
            ).fetchone()
            self._db.execute("DELETE FROM queue WHERE number = ?", (number,))
            with self._changed:
                self._rows, self._bytes, self._dropped = self._rows - 1, self._bytes - size, self._dropped + 1


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0.5)
    try:
        for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=FULL", "cache_size=-512"):
            db.execute(f"PRAGMA {pragma}")
        db.execute(_SCHEMA)
    except BaseException:
        db.close()
        raise
    return db


def _delay_s(attempt: int) -> float:
    """Return the wait before a try, with full jitter, as many devices must not come back at once."""
    return random.random() * min(MAX_DELAY_S, 2.0 ** min(attempt, 10))  # noqa: S311 - jitter needs no secret
