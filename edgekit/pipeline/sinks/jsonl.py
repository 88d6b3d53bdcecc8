"""One JSON document per line, in a file of bounded size."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from edgekit.base.line_file import LineFile, last_lines
from edgekit.core.errors import StorageError
from edgekit.core.ports import Result
from edgekit.pipeline.check import Options
from edgekit.pipeline.sinks import SinkContext
from edgekit.pipeline.sinks.document import event_documents, result_document

logger = logging.getLogger(__name__)
MOST_IN_DOUBT = 2048
"""Lines of an earlier run that are looked at for a result that may be among them."""


class JsonlOptions(Options, frozen=True, kw_only=True):
    """``[[sink]]`` of a file of JSON lines.

    ``what``: one line for each frame ("results") or for each change ("events"). ``max_mb``: at this
    size the file replaces ``<path>.1`` and a new one starts.
    """

    path: str
    what: Literal["results", "events"] = "results"
    max_mb: Annotated[float, msgspec.Meta(gt=0)] = 100.0


class JsonlSink:
    """Appends to a file on this device, only whole lines, and none of a result that it has.

    Raises:
        StorageError: The file cannot be opened.
    """

    Options = JsonlOptions

    def __init__(self, options: JsonlOptions, context: SinkContext) -> None:
        self._options = options
        self._path = context.path(options.path)
        self._max_bytes = int(options.max_mb * 1e6)
        self._encoder = msgspec.json.Encoder()
        self._file: LineFile | None = self._opened()
        self._known: frozenset[str] | None = None

    @property
    def _older(self) -> Path:
        return self._path.with_name(self._path.name + ".1")

    def _opened(self) -> LineFile:
        try:
            file = LineFile(self._path)
        except OSError as cause:
            raise self._failure(cause) from cause
        if file.cut:
            logger.warning("%s: half a line at its end is cut off: %d bytes", self._path, file.cut)
        return file

    def _failure(self, cause: OSError) -> StorageError:
        return StorageError(f"{self._path}: cannot be written: {cause.strerror}")

    def write(self, result: Result) -> None:
        """Append the result, or its events."""
        if self._file is None:
            raise StorageError(f"{self._path}: is closed")
        is_whole = self._options.what == "results"
        documents = [result_document(result)] if is_whole else event_documents(result)
        try:
            if result.is_again:
                documents = [document for document in documents if document["key"] not in self._keys()]
            self._file.append(b"".join(self._encoder.encode(document) + b"\n" for document in documents))
            if documents and self._file.size >= self._max_bytes:
                self._file.close()
                self._path.replace(self._older)
                self._file = self._opened()
        except OSError as cause:
            raise self._failure(cause) from cause

    def _keys(self) -> frozenset[str]:
        """Return the keys of the last results that earlier runs have written."""
        if self._known is None:
            lines = [*last_lines(self._older, MOST_IN_DOUBT), *last_lines(self._path, MOST_IN_DOUBT)]
            self._known = frozenset(filter(None, map(_key, lines[-MOST_IN_DOUBT:])))
        return self._known

    def close(self) -> None:
        """Write what is buffered and close."""
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError as cause:
                raise self._failure(cause) from cause


class _Key(msgspec.Struct):
    key: str = ""


def _key(line: bytes) -> str:
    """Return a line's key; empty where it has none, or is not one of this sink's."""
    try:
        return msgspec.json.decode(line, type=_Key).key
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
