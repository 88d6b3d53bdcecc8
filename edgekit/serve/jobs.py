"""Requests that are answered later: kept on disk, run one after the other, their answers fetched by name.

A job's file is written before its client is told, and removed once its answer is on disk: so a process that
ends on any line loses none. The file's suffix says how often the job was begun: one that ends its process
twice is not begun again.

Source: RFC 7240, "Prefer: respond-async".
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from edgekit.base.disk import disk_errors
from edgekit.base.files import write_durably
from edgekit.core.errors import BusyError, EdgekitError
from edgekit.serve.body import Bodies, Receive
from edgekit.serve.errors import HttpError, as_http
from edgekit.serve.models import Entry, Models
from edgekit.serve.reply import Reply, json_reply, refusal
from edgekit.serve.webhooks import ANSWER, HOOK, WEBHOOK, Webhooks, keep_hook, webhook_of

logger = logging.getLogger(__name__)
T = TypeVar("T")
MOST, MOST_BYTES = 1000, 256 << 20
"""Of one model: the jobs and answers on disk, and their bytes."""
KEEP_S = 86_400.0
"""How long an answer waits to be fetched."""
_AGAIN_S = 1.0
_PRIVATE = 0o600
_NAME = re.compile("[0-9a-f]{32}")
_KEPT_HEADERS = (b"content-type", b"inference-header-content-length", b"traceparent", b"x-edgekit-client")
_BUSY = (429, 503)
_NEXT = {".job": ".once", ".once": ".twice"}
"""The suffix of a job that is begun, by its suffix before."""
Headers = Mapping[bytes, bytes]


class Job(msgspec.Struct, frozen=True):
    """A request as it came."""

    headers: dict[bytes, bytes]
    body: bytes


class Jobs:
    """The jobs of one process's models; used in its event loop.

    Args:
        folder: Where they are kept, the same for every process behind the address.
        models: Those whose jobs are run here.
        bodies: Bounds the requests in memory.
        answer: Answers a request; raises as ``Inference.answer`` does.
        known: Returns the name and version of every model behind the address: the newest version of a model
            runs the jobs of those that are gone.
    """

    def __init__(
        self,
        folder: Path,
        models: Models,
        bodies: Bodies,
        answer: Callable[[Entry, Headers, Receive], Awaitable[Reply]],
        known: Callable[[], set[tuple[str, str]]],
    ) -> None:
        self._known = known
        self._folder, self._models, self._bodies, self._answer = folder, models, bodies, answer
        self._more = asyncio.Event()
        self._webhooks = Webhooks(self._answered)

    async def accept(self, entry: Entry, headers: Headers, receive: Receive) -> Reply:
        """Keep a request; return the 202 that says where its answer will be.

        Raises:
            HttpError: Its body is refused.
            BusyError: There are too many jobs.
            StorageError: It cannot be written.
        """
        name = f"{time.time_ns():016x}{secrets.token_hex(8)}"
        hook = webhook_of(headers[WEBHOOK]) if WEBHOOK in headers else ""
        with self._bodies.holding() as body:
            data = await body.read(receive, headers)
            kept = {key: headers[key] for key in _KEPT_HEADERS if key in headers}
            encoded = msgspec.msgpack.encode(Job(kept, data))
            await _aside(_keep, self._of(entry), name, encoded, hook)
        self._more.set()
        model, version = (quote(each, safe="") for each in (entry.offer.name, entry.offer.version))
        where = f"/v2/models/{model}/versions/{version}/jobs/{name}"
        reply = json_reply({"id": name, "state": "waiting", "href": where}, 202)
        more = ((b"location", where.encode()), (b"preference-applied", b"respond-async"))
        return Reply(reply.body, reply.status, (*reply.headers, *more))

    async def find(self, model: str, version: str, name: str) -> Reply:
        """Return a job's answer, as its client would have got it at once; a 202 while it waits.

        Raises:
            HttpError: 404: there is no such job.
        """
        folder = _folder(self._folder, model, version)
        return await _aside(_found, folder, name)

    async def forget(self, model: str, version: str, name: str) -> Reply:
        """Remove a job or its answer; one that runs has no answer then.

        Raises:
            HttpError: 404: there is no such job.
        """
        await _aside(_forget, _folder(self._folder, model, version), name)
        return json_reply({})

    async def run(self) -> None:
        """Run jobs, the oldest of each model first, until it is cancelled."""
        await asyncio.gather(_kept_up(self._run_all), _kept_up(self._webhooks.run))

    async def _run_all(self) -> None:
        while True:
            self._more.clear()
            ran = [await self._run_next(entry) for entry in self._models if entry.is_ready]
            if not any(ran):
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._more.wait(), _AGAIN_S)

    async def _run_next(self, entry: Entry) -> bool:
        """Run a model's oldest job; return False where there is none, or it has to wait."""
        path = await _aside(self._oldest, entry)
        if path is None:
            return False
        try:
            path = await _aside(_begun, path)
            job = msgspec.msgpack.decode(await _aside(path.read_bytes), type=Job)
            reply = await self._answer(entry, job.headers, _sent(job.body))
        except FileNotFoundError:  # it was forgotten
            return True
        except (EdgekitError, HttpError) as error:
            refused = as_http(error) if isinstance(error, EdgekitError) else error
            if refused.status in _BUSY:
                await _aside(_put_back, path)
                return False
            reply = refusal(refused)
        except (msgspec.DecodeError, OSError) as cause:
            reply = refusal(HttpError(500, f"the job cannot be read: {cause}"))
        except Exception:  # a bug, which would end the task that runs every job
            logger.exception("job %s ended in a bug", path.stem)
            reply = refusal(HttpError(500, "the job ended in a bug; the server's log has it"))
        try:
            await _aside(_finish, path, msgspec.msgpack.encode(reply))
        except OSError as cause:
            logger.error("job %s: its answer cannot be kept: %s", path.stem, cause)  # noqa: TRY400
            await _aside(_put_back, path)  # it did not end its process: it may begin as often as it needs
            return False
        self._webhooks.look()
        return True

    def _of(self, entry: Entry) -> Path:
        return _folder(self._folder, entry.offer.name, entry.offer.version)

    def _oldest(self, entry: Entry) -> Path | None:
        return next((path for path in map(_oldest, self._folders(entry)) if path is not None), None)

    def _folders(self, entry: Entry) -> Iterator[Path]:
        """Yield the model's folder; the newest version has those of the versions that are gone too."""
        own, known = self._of(entry), self._known()
        yield own
        if self._models.find(entry.offer.name) is entry:
            present = {_folder(self._folder, *each) for each in known}
            yield from (each for each in own.parent.glob("*") if each not in present and each != own)

    def _answered(self) -> list[Path]:
        return [folder for entry in self._models for folder in self._folders(entry)]


async def _kept_up(run: Callable[[], Awaitable[None]]) -> None:
    """Run what never ends, and begin it again where the disk fails it."""
    while True:
        with _told():
            await run()
        await asyncio.sleep(_AGAIN_S)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except OSError as cause:
        logger.error("jobs: %s; it is tried again", cause)  # noqa: TRY400


async def _aside(call: Callable[..., T], *arguments: Any) -> T:
    return await asyncio.get_running_loop().run_in_executor(None, functools.partial(call, *arguments))


def _folder(root: Path, model: str, version: str) -> Path:
    return root / _segment(model) / _segment(version)


def _segment(name: str) -> str:
    return quote(name, safe="").replace(".", "%2E")


def _keep(folder: Path, name: str, encoded: bytes, hook: str) -> None:
    now_s = time.time()
    names, size = set[str](), len(encoded)
    for path in folder.glob("*.*"):
        with contextlib.suppress(FileNotFoundError):
            stat = path.stat()
            if path.suffix == ANSWER and stat.st_mtime + KEEP_S < now_s:
                path.unlink()
            else:
                size += stat.st_size
                # A job and its answer that is being written are one, whatever the ends of their names.
                names.add(path.name.lstrip(".").partition(".")[0])
    if len(names) >= MOST or size > MOST_BYTES:
        raise BusyError(f"overloaded: {len(names)} jobs of this model wait, or their answers", wait_s=60.0)
    with disk_errors(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if hook:
            keep_hook(folder, name, hook)
        write_durably(folder / f"{name}.job", encoded, mode=_PRIVATE)


def _unknown(name: str) -> HttpError:
    return HttpError(404, f"there is no job {name[:64]!r} of this model and version")


def _found(folder: Path, name: str) -> Reply:
    if not _NAME.fullmatch(name):
        raise _unknown(name)
    with contextlib.suppress(FileNotFoundError):
        return msgspec.msgpack.decode((folder / f"{name}{ANSWER}").read_bytes(), type=Reply)
    waiting = [path.stem for path in _waiting(folder)]
    if name not in waiting:
        raise _unknown(name)
    return json_reply({"id": name, "state": "waiting", "ahead": waiting.index(name)}, 202)


def _forget(folder: Path, name: str) -> None:
    found = False
    for suffix in (".job", *_NEXT.values(), ANSWER, HOOK) if _NAME.fullmatch(name) else ():
        with contextlib.suppress(FileNotFoundError):
            (folder / f"{name}{suffix}").unlink()
            found = True
    if not found:
        raise _unknown(name)


def _oldest(folder: Path) -> Path | None:
    """Return the job to run next; those whose answer is there already are removed."""
    for path in _waiting(folder):
        if not path.with_suffix(ANSWER).exists():
            return path
        path.unlink(missing_ok=True)
    return None


def _waiting(folder: Path) -> list[Path]:
    """Return the jobs, the oldest first."""
    return sorted(path for path in folder.glob("*.*") if path.suffix in (".job", *_NEXT.values()))


def _begun(path: Path) -> Path:
    """Note that a job is begun; return its new path.

    Raises:
        HttpError: 500: it ended its process twice.
        FileNotFoundError: It was forgotten.
    """
    if path.suffix not in _NEXT:
        raise HttpError(500, "the model's process ended twice while it ran this job")
    return path.rename(path.with_suffix(_NEXT[path.suffix]))


def _put_back(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.rename(path.with_suffix(".job"))


def _finish(path: Path, encoded: bytes) -> None:
    if path.exists():  # else it was forgotten
        write_durably(path.with_suffix(ANSWER), encoded, mode=_PRIVATE)
        path.unlink(missing_ok=True)


def _sent(body: bytes) -> Receive:
    """Return what gives a request's body, and never hangs up."""
    pieces = [body]

    async def receive() -> MutableMapping[str, Any]:
        if not pieces:
            await asyncio.get_running_loop().create_future()
        return {"type": "http.request", "body": pieces.pop()}

    return receive
