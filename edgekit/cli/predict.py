"""``edgekit predict``: run a model on many files; what is written already is not run again."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from edgekit.base.command_line import Report
from edgekit.base.disk import disk_errors, sync_path
from edgekit.base.line_file import LineFile
from edgekit.core.errors import BundleError, EdgekitError, TensorError, UsageError
from edgekit.core.spec import Prediction
from edgekit.model.api import Model, load
from edgekit.pipeline.picture_files import read_picture, readable

_AHEAD = 8
_BEGINNING = b'{"file"'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    parser.add_argument("bundle", help="bundle folder, .ekb file, or model file")
    parser.add_argument("files", nargs="+", type=Path, help="pictures")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="OUT",
        help="JSON lines; what it has is passed over",
    )
    parser.add_argument("--batch", type=int, metavar="N", help="pictures in one run, if it takes them")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (all cores but one)")


def run(arguments: argparse.Namespace) -> Report:
    """Write a line for each file; exit code 4 if one could not be read."""
    done = done_before(arguments.output)
    files = [path for path in dict.fromkeys(arguments.files) if readable(path) not in done]
    if arguments.batch is not None and arguments.batch < 1:
        raise UsageError(f"--batch: want a number from 1, got {arguments.batch}")
    failed = 0
    with contextlib.ExitStack() as stack:
        model = stack.enter_context(load(arguments.bundle, batch=arguments.batch, threads=arguments.threads))
        with disk_errors(arguments.output):
            out = stack.enter_context(contextlib.closing(LineFile(arguments.output)))
            for line in lines_of(model, files, arguments.batch or 1):
                failed += "error" in line
                out.append(msgspec.json.encode(line) + b"\n")
            sync_path(arguments.output)
    output, passed_over = str(arguments.output), len(arguments.files) - len(files)
    counts = {"done": len(files) - failed, "failed": failed, "passed_over": passed_over}
    text = f"{counts['done']} predicted, {failed} failed, {passed_over} passed over: {output}"
    return Report({"output": output, **counts}, text, BundleError.exit_code if failed else 0)


def done_before(output: Path) -> set[str]:
    """Return the files that an output names; a last line that a crash cut off names none.

    Raises:
        UsageError: It is no such output: it may be a picture, or somebody's notes.
    """
    if not output.exists():
        return set()
    with disk_errors(output):
        *lines, half = output.read_bytes().split(b"\n")
    if not _is_cut_off(half):
        lines.append(half)
    try:
        return {msgspec.json.decode(line)["file"] for line in lines}
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError) as cause:
        raise UsageError(f"{output} is not an output of predict: {cause}", hint="name another -o") from cause


def _is_cut_off(line: bytes) -> bool:
    """Return whether it is the beginning of a line, or nothing; ``LineFile`` cuts it off."""
    if line[: len(_BEGINNING)] != _BEGINNING[: len(line)]:
        return False
    try:
        msgspec.json.decode(line)
    except msgspec.DecodeError:
        return True
    return False


def lines_of(model: Model, files: Sequence[Path], batch: int) -> Iterator[dict[str, Any]]:
    """Yield a line for each file, in their order; pictures are decoded ahead, in other threads."""
    waiting = iter(files)
    with ThreadPoolExecutor(2) as pool:
        ahead = [(path, pool.submit(read_picture, path)) for path in islice(waiting, _AHEAD + batch)]
        while ahead:
            group, ahead = ahead[:batch], ahead[batch:]
            ahead += [(path, pool.submit(read_picture, path)) for path in islice(waiting, len(group))]
            yield from _predicted(model, [(path, _pixels(future)) for path, future in group])


def _pixels(future: Future[Any]) -> Any:
    """Return a picture, or why it is none."""
    try:
        return future.result()
    except EdgekitError as error:
        return error.one_line()


def _predicted(model: Model, group: Sequence[tuple[Path, Any]]) -> Iterator[dict[str, Any]]:
    pictures = [pixels for _, pixels in group if not isinstance(pixels, str)]
    try:
        predictions = iter(model.predict_many(pictures))
    except TensorError as error:
        predictions, why = iter(()), error.one_line()
        group = [(path, pixels if isinstance(pixels, str) else why) for path, pixels in group]
    for path, pixels in group:
        line = {"error": pixels} if isinstance(pixels, str) else _line(next(predictions))
        yield {"file": readable(path), **line}


def _line(prediction: Prediction) -> dict[str, Any]:
    line: dict[str, Any] = {"task": prediction.task, "items": msgspec.to_builtins(prediction.items)}
    if prediction.tensors:
        line["tensors"] = {name: tensor.tolist() for name, tensor in prediction.tensors.items()}
    return line
