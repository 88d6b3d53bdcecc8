"""Sends the answers of jobs to programs on this machine that asked for it, until they have them.

Only to this machine: what leaves it goes through a pipeline's sinks, which the egress gate watches.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from edgekit.base.files import write_durably
from edgekit.core.errors import EdgekitError
from edgekit.serve.errors import HttpError
from edgekit.serve.reply import Reply
from edgekit.serve.upstream import Upstream

logger = logging.getLogger(__name__)
ANSWER, HOOK = ".answer", ".hook"
"""The files of a job: its answer, and where that is sent."""
WEBHOOK = b"x-edgekit-webhook"
_HERE = frozenset({"127.0.0.1", "localhost", "::1"})
_MOST_CHARACTERS = 2000
_AT_ONCE = 8
_ANSWER_S, _AGAIN_S, _MOST_S, _ORPHAN_S = 10.0, 1.0, 300.0, 60.0
_LATER = (408, 425, 429)


def webhook_of(given: bytes) -> str:
    """Return the address that a request's header names.

    >>> webhook_of(b"http://127.0.0.1:1880/answers")
    'http://127.0.0.1:1880/answers'

    Raises:
        HttpError: 400: it is no address of this machine.
    """
    try:
        text = given.decode("ascii")
        url = urlsplit(text)
        is_here = url.scheme == "http" and url.hostname in _HERE and url.port != 0 and "@" not in url.netloc
    except ValueError:
        text, is_here = "", False
    if not is_here or not text.isprintable() or " " in text or len(text) > _MOST_CHARACTERS:
        raise HttpError(400, "X-Edgekit-Webhook: want http://127.0.0.1:PORT/PATH, an address of this machine")
    return text


def keep_hook(folder: Path, name: str, url: str) -> None:
    """Write down where a job's answer is to be sent, before the job itself."""
    write_durably(folder / f"{name}{HOOK}", url.encode(), mode=0o600)


class Webhooks:
    """Sends the answers of one process's models; used in its event loop.

    ``folders`` returns those of the jobs that this process answers; it is called in a thread.
    """

    def __init__(self, folders: Callable[[], Iterable[Path]]) -> None:
        self._folders = folders
        self._tries: dict[Path, tuple[int, float]] = {}
        self._more = asyncio.Event()

    def look(self) -> None:
        """Look for answers soon."""
        self._more.set()

    async def run(self) -> None:
        """Send answers until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self._more.clear()
            hooks = await loop.run_in_executor(None, self._hooks)
            self._tries = {hook: tried for hook, tried in self._tries.items() if hook in hooks}
            now_s = loop.time()
            due = [hook for hook in hooks if self._tries.get(hook, (0, 0.0))[1] <= now_s]
            await asyncio.gather(*map(self._send, due[:_AT_ONCE]))
            if len(due) <= _AT_ONCE:
                again_s = min((when_s for _, when_s in self._tries.values()), default=None)
                wait_s = None if again_s is None else max(0.0, again_s - loop.time())
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._more.wait(), wait_s)

    def _hooks(self) -> list[Path]:
        """Return the addresses whose jobs are still there, the oldest first."""
        found = []
        for hook in sorted(path for folder in self._folders() for path in folder.glob(f"*{HOOK}")):
            if any(hook.parent.glob(f"{hook.stem}.[!h]*")):
                found.append(hook)
            else:
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - hook.stat().st_mtime > _ORPHAN_S:  # its job was never kept, or is gone
                        hook.unlink()
        return found

    async def _send(self, hook: Path) -> None:
        """Send an answer, if it is there; forget it once it has arrived, or is refused for good."""
        loop = asyncio.get_running_loop()
        try:
            url, encoded = await loop.run_in_executor(None, _read, hook)
            status = await asyncio.wait_for(_post(url, hook.stem, encoded), _ANSWER_S)
        except FileNotFoundError:  # it still runs, or was forgotten
            return
        except (EdgekitError, ValueError, OSError, asyncio.TimeoutError) as cause:
            status, why = 503, str(cause) or "it does not answer"
        else:
            why = f"it answers {status}"
        if status >= 500 or status in _LATER:
            tries = self._tries.get(hook, (0, 0.0))[0] + 1
            wait_s = min(_MOST_S, _AGAIN_S * 2.0 ** min(tries - 1, 10))
            self._tries[hook] = (tries, loop.time() + wait_s)
            level = logging.WARNING if tries == 1 else logging.DEBUG
            logger.log(level, "job %s: its webhook is tried again in %.0f s: %s", hook.stem, wait_s, why)
            return
        if not 200 <= status < 300:
            logger.error("job %s: its answer is given up: its webhook does not want it: %s", hook.stem, why)
        await loop.run_in_executor(None, _forget, hook)


def _read(hook: Path) -> tuple[str, Reply]:
    encoded = hook.with_suffix(ANSWER).read_bytes()
    return hook.read_text("ascii"), msgspec.msgpack.decode(encoded, type=Reply)


async def _post(url: str, job: str, answer: Reply) -> int:
    """Return the status with which the program at the address takes an answer."""
    split = urlsplit(url)
    host = split.hostname or ""
    upstream = Upstream(f"http://{f'[{host}]' if ':' in host else host}:{split.port or 80}")
    kept: dict[str, Any] = {name.decode(): value.decode("latin-1") for name, value in answer.headers}
    kept |= {"x-edgekit-job": job, "x-edgekit-status": str(answer.status)}
    target = (split.path or "/") + (f"?{split.query}" if split.query else "")
    return await upstream.tell(target, answer.body, kept.items())


def _forget(hook: Path) -> None:
    for path in (hook.with_suffix(ANSWER), hook):  # an answer without an address would never be sent
        path.unlink(missing_ok=True)
