"""``edgekit optimize``: from one trained model to the fastest variant of every board within the gate."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgekit.base.command_line import Report
from edgekit.core.errors import ConfigError, UsageError
from edgekit.core.spec import Pre
from edgekit.core.structure import decode_toml

if TYPE_CHECKING:
    from edgekit_optimize.run.deliver import Outcome
    from edgekit_optimize.run.request import Description, Remote, Request, Shrinking
    from edgekit_optimize.study import CandidateResult

_ZOO = "zoo:"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "model",
        help="ONNX, TFLite, OpenVINO .xml, Keras, .pt2, a bundle, zoo:NAME, or module:function for torch",
    )
    parser.add_argument(
        "--data",
        default="",
        help="folder of pictures, .npz, or module:function; with labels or without; zoo:NAME brings its own",
    )
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="BUNDLE", help="folder or .ekb file")
    parser.add_argument("--targets", metavar="ID,...", help="device profiles; this machine's by default")
    parser.add_argument(
        "--metric", default="auto", help="top1, top5, agreement, map50, iou, cosine ... (auto)"
    )
    parser.add_argument(
        "--max-drop", type=float, help="how much of it may be lost (0.01; 0.03 without labels)"
    )
    parser.add_argument("--budget-ms", type=float, default=0.0, help="refuse what is slower on the target")
    parser.add_argument("--budget-mb", type=float, default=0.0, help="refuse files that are larger")
    parser.add_argument(
        "--keep-all", action="store_true", help="include candidates that miss the gate, marked"
    )
    _data_arguments(parser.add_argument_group("data"))
    _model_arguments(parser.add_argument_group("description of the model"))
    _search_arguments(parser.add_argument_group("search"))
    _training_arguments(parser.add_argument_group("training (torch models)"))
    _remote_arguments(parser.add_argument_group("measurements of real boards"))


def _data_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--calibration", default="", metavar="DATA", help="other data to measure int8 ranges with"
    )
    group.add_argument("--samples", type=int, default=500, help="evaluation samples at most (500)")
    group.add_argument(
        "--calibration-samples", type=int, default=128, metavar="N", help="calibration samples (128)"
    )
    group.add_argument("--seed", type=int, default=0, help="of the split and of training (0)")


def _model_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--name", default="", help="the model's name; the file's by default")
    group.add_argument("--version", default="", help="the bundle's version (1.0.0; a bundle keeps its own)")
    group.add_argument("--license", default="", help="the model's licence")
    group.add_argument("--task", default="", choices=("", "classify", "raw"), help="detected by default")
    group.add_argument("--labels", type=Path, metavar="FILE", help="one class name a line")
    group.add_argument(
        "--mean", type=_numbers, metavar="X[,X,X]", help="subtracted from pixels of 0..255 (0)"
    )
    group.add_argument("--std", type=_numbers, metavar="X[,X,X]", help="then divided by (255)")
    group.add_argument(
        "--resize", choices=("stretch", "letterbox", "crop"), help="to the input's size (stretch)"
    )
    group.add_argument("--crop", type=float, metavar="RATIO", help="share of the picture that crop keeps (1)")
    group.add_argument("--color", choices=("RGB", "BGR", "GRAY"), help="order of the input's channels (RGB)")
    group.add_argument("--describe", type=Path, metavar="TOML", help="all of this, plus tensors and decoder")
    group.add_argument(
        "--shape",
        action="append",
        default=[],
        metavar="[NAME=]N,N,...",
        help="fixes an input's free dimensions",
    )
    group.add_argument(
        "--state",
        action="append",
        default=[],
        metavar="OUTPUT:INPUT",
        help="an output that is fed back to an input for the next sample, starting with zeros; repeatable",
    )


def _search_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--threads", type=int, default=1, help="CPU threads that candidates are timed with (1)"
    )
    group.add_argument("--seconds", type=float, default=1.0, help="how long each candidate is timed (1)")
    group.add_argument("--exhaustive", action="store_true", help="also try what rarely pays")
    group.add_argument("--no-sensitivity", action="store_true", help="do not measure the layers' sensitivity")
    group.add_argument("--cache", type=Path, metavar="DIR", help="folder of cached results")
    group.add_argument(
        "--report", type=Path, metavar="DIR", help="for report.html and .json (beside the bundle)"
    )


def _training_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--train", default="", metavar="M:F", help="your training, as module:function")
    group.add_argument("--loss", default="", metavar="M:F", help="your loss; cross entropy by default")
    group.add_argument(
        "--prune",
        type=_numbers,
        default=(),
        metavar="R[,R]",
        help="shares of the multiply-adds to prune away",
    )
    group.add_argument("--student", default="", metavar="M:F", help="a smaller network to distil into")
    group.add_argument(
        "--qat", action="store_true", help="also do quantisation-aware training: the last resort"
    )
    group.add_argument("--epochs", type=int, default=3, help="passes over your data for each training (3)")


def _remote_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--measure-on", default="", metavar="DEVICE", help="an enrolled device times candidates"
    )
    group.add_argument(
        "--fleet", default="", metavar="URL", help="the fleet; its boards' known costs are used"
    )
    group.add_argument("--token", default="", help="to the fleet: a publisher's, or @FILE")
    group.add_argument("--ca", type=Path, metavar="FILE", help="the fleet's CA, where HTTPS has its own")
    group.add_argument("--keys", type=Path, metavar="DIR", help="the publisher's keys, for --measure-on")


def run(arguments: argparse.Namespace) -> Report:
    """Search, write bundle and report, and print the variant chosen for each board.

    The exit code is 8 if a board got no variant.

    Raises:
        UsageError: A flag is invalid.
        ConfigError: The data cannot be used, or a tool is not installed.
        ModelError: The model cannot be used.
    """
    if not arguments.data and not arguments.model.startswith(_ZOO):
        raise UsageError(
            "--data is missing",
            hint="give data like those that the model will see; only zoo:NAME has its own",
        )
    request = _request(arguments)
    try:
        from edgekit_optimize.run.run import optimize, shortfall

        outcome = optimize(request)
    except ImportError as cause:
        raise ConfigError(
            f"optimizing needs {cause.name}, which is not installed",
            hint="pip install 'edgekit-optimize[tools]'",
        ) from cause
    document, text = _document(outcome), _text(outcome)
    short = shortfall(outcome)
    if short is None:
        return Report(document, text)
    print(short.render(), file=sys.stderr)
    document["error"] = {
        "code": short.code,
        "message": short.message,
        "reasons": list(short.reasons),
        "hint": short.hint,
    }
    return Report(document, text, short.exit_code)


def _request(arguments: argparse.Namespace) -> Request:
    from edgekit_optimize.run.request import Request

    return Request(
        model=arguments.model,
        data=arguments.data,
        out=arguments.out,
        calibration=arguments.calibration,
        targets=tuple(name.strip() for name in (arguments.targets or "").split(",") if name.strip()),
        metric=arguments.metric,
        max_drop=arguments.max_drop,
        budget_ms=arguments.budget_ms,
        budget_mb=arguments.budget_mb,
        keep_all=arguments.keep_all,
        threads=arguments.threads,
        samples=arguments.samples,
        calibration_samples=arguments.calibration_samples,
        seed=arguments.seed,
        seconds=arguments.seconds,
        exhaustive=arguments.exhaustive,
        sensitivity=not arguments.no_sensitivity,
        shapes=dict(_shape(text) for text in arguments.shape),
        states=tuple(arguments.state),
        description=_description(arguments),
        shrinking=_shrinking(arguments),
        remote=_remote(arguments),
        cache=arguments.cache,
        report=arguments.report,
        command=shlex.join(["edgekit", *_without_secrets(sys.argv[1:])]),
    )


def _shrinking(arguments: argparse.Namespace) -> Shrinking:
    from edgekit_optimize.run.request import Shrinking

    return Shrinking(
        train=arguments.train,
        loss=arguments.loss,
        prune=arguments.prune,
        student=arguments.student,
        qat=arguments.qat,
        epochs=arguments.epochs,
    )


def _remote(arguments: argparse.Namespace) -> Remote:
    from edgekit_optimize.run.request import Remote

    return Remote(
        fleet=arguments.fleet,
        token=arguments.token,
        device=arguments.measure_on,
        keys=arguments.keys,
        ca=arguments.ca,
    )


def _without_secrets(words: list[str]) -> list[str]:
    """Return a command line without its token, to be shown in the report."""
    shown = list(words)
    for index, word in enumerate(shown):
        if word.startswith("--token="):
            shown[index] = "--token=..."
        elif index and shown[index - 1] == "--token":
            shown[index] = "..."
    return shown


def _description(arguments: argparse.Namespace) -> Description:
    from edgekit_optimize.run.request import Description

    description = Description()
    if arguments.describe:
        description = decode_toml(_text_of(arguments.describe), Description, str(arguments.describe))
    changes: dict[str, Any] = {"version": arguments.version or description.version}
    flags = {
        "mean": arguments.mean,
        "std": arguments.std,
        "resize": arguments.resize,
        "crop_ratio": arguments.crop,
        "color": arguments.color,
    }
    flags_given = {name: value for name, value in flags.items() if value is not None}
    if flags_given:
        changes["pre"] = msgspec.structs.replace(description.pre or Pre(std=(255.0,)), **flags_given)
    if arguments.labels:
        changes["labels"] = tuple(_text_of(arguments.labels).splitlines())
    name = arguments.name or description.model or _name_of(arguments)
    changes |= {"model": name, "license": arguments.license or description.license}
    if arguments.task:
        changes["task"] = arguments.task
    return msgspec.structs.replace(description, **changes)


def _name_of(arguments: argparse.Namespace) -> str:
    """Return a model's name, by default its file's; empty for a bundle, which has its own."""
    path = Path(arguments.model)
    if arguments.model.startswith(_ZOO) or path.suffix == ".ekb" or (path / "bundle.json").is_file():
        return ""
    stem = arguments.model.rpartition(":")[2] if ":" in arguments.model else path.stem
    plain = "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in stem.lower())
    return plain[:64].strip("-") or "model"


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as cause:
        raise ConfigError(f"{path} cannot be read: {cause}") from cause


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, sizes = text.rpartition("=")
    try:
        shape = tuple(int(size) for size in sizes.split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise UsageError(f"--shape {text}: want NAME=N,N,... of positive numbers", hint="--shape 1,3,224,224")
    return name, shape


def _document(outcome: Outcome) -> dict[str, Any]:
    study = outcome.study
    return {
        "bundle": str(outcome.bundle) if outcome.bundle else None,
        "report": str(outcome.report),
        "metric": study.metric,
        "max_drop": study.max_drop,
        "reference": study.reference,
        "targets": msgspec.to_builtins(study.targets),
        "candidates": [
            {
                "id": candidate.plan.id,
                "score": candidate.score.value if candidate.score else None,
                "drop": candidate.score.drop if candidate.score else None,
                "p50_ms": candidate.timings[0].p50_ms if candidate.timings else None,
                "total_ms": candidate.timings[0].total_ms if candidate.timings else None,
                "bytes": candidate.bytes,
                "gate": candidate.gate,
                "kept": candidate.kept,
                "error": candidate.error or None,
            }
            for candidate in study.candidates
        ],
        "warnings": list(study.warnings),
        "seconds": study.seconds,
    }


def _text(outcome: Outcome) -> str:
    study = outcome.study
    ranked = sorted(
        study.candidates, key=lambda c: (bool(c.error), c.timings[0].total_ms if c.timings else 1e9)
    )
    lines = [f"{'candidate':<32} {study.metric:>9} {'drop':>8} {'total':>10} {'size':>9}  gate"]
    lines += [_row(candidate) for candidate in ranked]
    lines += [
        f"{target.profile}: {target.why if target.chosen else 'nothing: no candidate fits'}"
        for target in study.targets
    ]
    lines += [f"warning: {warning}" for warning in study.warnings]
    lines.append(f"bundle: {outcome.bundle or 'none'}")
    lines.append(f"report: {outcome.report}")
    return "\n".join(lines)


def _row(candidate: CandidateResult) -> str:
    if candidate.error:
        return f"{candidate.plan.id:<32} {candidate.error[:100]}"
    score = f"{candidate.score.value:>9.4f} {candidate.score.drop:>8.4f}" if candidate.score else " " * 18
    speed = f"{candidate.timings[0].total_ms:>7.3g} ms" if candidate.timings else f"{'-':>10}"
    size = (
        f"{candidate.bytes / 1e6:>6.3g} MB" if candidate.bytes >= 1e5 else f"{candidate.bytes / 1e3:>6.3g} kB"
    )
    kept = ", in the bundle" if candidate.kept else ""
    return f"{candidate.plan.id:<32} {score} {speed} {size}  {candidate.gate or '-'}{kept}"
