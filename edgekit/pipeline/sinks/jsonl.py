"""One JSON document per line, in a file of bounded size."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Annotated, BinaryIO, Literal

import msgspec

from edgekit.core.errors import StorageError
from edgekit.core.ports import Result
from edgekit.pipeline.check import Options
from edgekit.pipeline.sinks import SinkContext
from edgekit.pipeline.sinks.document import event_documents, result_document


class JsonlOptions(Options, frozen=True, kw_only=True):
    """``[[sink]]`` of a file of JSON lines.

    ``what``: one line for each frame ("results") or for each change ("events"). ``max_mb``: at this
    size the file replaces ``<path>.1`` and a new one starts.
    """

    path: str
    what: Literal["results", "events"] = "results"
    max_mb: Annotated[float, msgspec.Meta(gt=0)] = 100.0


class JsonlSink:
    """Appends to a file on this device.

    Raises:
        StorageError: The file cannot be opened.
    """

    Options = JsonlOptions

    def __init__(self, options: JsonlOptions, context: SinkContext) -> None:
        self._options = options
        self._path = context.path(options.path)
        self._max_bytes = int(options.max_mb * 1e6)
        self._encoder = msgspec.json.Encoder()
        self._file: BinaryIO | None = self._opened()

    def _opened(self) -> BinaryIO:
        with self._checked():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            return self._path.open("ab")

    @contextlib.contextmanager
    def _checked(self) -> Iterator[None]:
        try:
            yield
        except OSError as cause:
            raise StorageError(f"{self._path}: cannot be written: {cause.strerror}") from cause

    def write(self, result: Result) -> None:
        """Append the result, or its events."""
        if self._file is None:
            raise StorageError(f"{self._path}: is closed")
        is_whole = self._options.what == "results"
        documents = [result_document(result)] if is_whole else event_documents(result)
        with self._checked():
            for document in documents:
                self._file.write(self._encoder.encode(document) + b"\n")
            self._file.flush()  # a result that is written survives a kill of the process
            if documents and self._file.tell() >= self._max_bytes:
                self._file.close()
                self._path.replace(self._path.with_name(self._path.name + ".1"))
                self._file = self._opened()

    def close(self) -> None:
        """Write what is buffered and close."""
        file, self._file = self._file, None
        if file is not None:
            with self._checked():
                file.close()
