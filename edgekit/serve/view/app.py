"""The page alone, for a pipeline that runs without a server of models."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from edgekit.serve.body import Receive
from edgekit.serve.view.page import Page, Send


class PageApp:
    """An ASGI application that has the page and nothing else."""

    def __init__(self, page: Page) -> None:
        self._page = page

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request, or the server's lifespan events."""
        if scope["type"] != "lifespan":
            await self._page.answer(scope, receive, send)
            return
        for phase in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{phase}.complete"})
