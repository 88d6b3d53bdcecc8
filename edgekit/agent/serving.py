"""Puts a server together: bundles, the variant of each that fits here, and the application."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgekit.base.notify import Notifier
from edgekit.core.errors import ConfigError, TensorError, UsageError
from edgekit.core.spec import Manifest, Prediction, TensorSpec
from edgekit.model.assembly import OpenModel, open_model
from edgekit.model.bundle import open_bundle
from edgekit.model.golden import require_golden
from edgekit.pipeline.pre import vision
from edgekit.pipeline.predictor import Predictor
from edgekit.serve.app import App
from edgekit.serve.models import Entry, Models
from edgekit.serve.ports import Limits, Offer, Servable
from edgekit.serve.routes import Access
from edgekit.serve.server import Address, run
from edgekit.version import __version__

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
_TOKEN_BYTES = 16


@dataclass(frozen=True)
class ServeOptions:
    """What ``edgekit serve`` is told.

    Args:
        bundles: What to serve.
        address: Where.
        token_file: A file with the token that requests must bear.
        threads: CPU threads for each runtime; None: all cores but one.
        limits: The bounds.
    """

    bundles: tuple[str, ...]
    address: Address
    token_file: Path | None = None
    threads: int | None = None
    limits: Limits = field(default_factory=Limits)


class RawServable:
    """A bare model file, or a bundle of raw tensors: names, types and shapes are the file's own."""

    takes_images = False
    optional_inputs: frozenset[str] = frozenset()

    def __init__(self, opened: OpenModel) -> None:
        self._opened = opened
        self._in, self._out = dict(opened.variant.inputs), dict(opened.variant.outputs)
        logical = {file: name for name, file in self._in.items()}
        self.inputs = tuple(_renamed(spec, logical) for spec in opened.backend.inputs)
        self._logical = {file: name for name, file in self._out.items()}
        self.outputs = tuple(_renamed(spec, self._logical) for spec in opened.backend.outputs)
        self.variant, self.platform = opened.variant.id, _platform(opened)

    def infer(self, feeds: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Run the backend on the feeds as they are."""
        named = {self._in.get(name, name): array for name, array in feeds.items()}
        outputs = self._opened.backend.infer(named)
        return {self._logical.get(name, name): array for name, array in outputs.items()}

    def predict(self, image: bytes) -> Prediction:
        """Refuse: the file does not say how a picture becomes its tensors."""
        raise TensorError(f"a model of raw tensors takes no image of {len(image)} bytes")

    def status(self) -> dict[str, Any]:
        """Return what runs, and why."""
        return _status(self._opened)

    def close(self) -> None:
        """Free the backend."""
        self._opened.close()


class TaskServable:
    """A model of a bundle, by its manifest's tensors, whichever variant runs.

    An image model takes the picture as it stands after resizing, uint8, NHWC; a window model the
    window before normalising. Outputs are real numbers. So a client need not know which variant runs,
    and goes on when another takes over. Recurrent state begins at zeros unless the request has it.
    """

    def __init__(self, opened: OpenModel, predictor: Predictor) -> None:
        self._opened, self._predictor = opened, predictor
        manifest = opened.manifest
        self.takes_images = takes_images(manifest)
        self.optional_inputs = frozenset(state.input for state in manifest.state)
        self.inputs = tuple(self._input(spec) for spec in manifest.inputs)
        self.outputs = tuple(
            msgspec.structs.replace(spec, datatype="FP32", quantization=None) for spec in manifest.outputs
        )
        self.variant, self.platform = opened.variant.id, _platform(opened)

    def _input(self, spec: TensorSpec) -> TensorSpec:
        if not self.takes_images or spec.name in self.optional_inputs or len(spec.shape) != 4:
            return spec
        batch, *rest = spec.shape
        if spec.layout == "NCHW":
            rest = [*rest[1:], rest[0]]
        return msgspec.structs.replace(spec, datatype="UINT8", shape=(batch, *rest), layout="NHWC")

    def infer(self, feeds: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Run on the manifest's tensors."""
        return self._predictor.run_golden(feeds)

    def predict(self, image: bytes) -> Prediction:
        """Decode a picture and say what the model sees; as a camera would show it, EXIF applied."""
        import numpy as np

        cv = vision()
        try:
            pixels = cv.imdecode(np.frombuffer(image, np.uint8), cv.IMREAD_COLOR)
        except cv.error as cause:
            raise TensorError(f"the image cannot be decoded: {cause}") from cause
        if pixels is None:
            raise TensorError("the image cannot be decoded")
        self._predictor.reset()
        return self._predictor.predict(pixels)

    def status(self) -> dict[str, Any]:
        """Return what runs, and why."""
        return _status(self._opened)

    def close(self) -> None:
        """Free the backend."""
        self._opened.close()


def takes_images(manifest: Manifest) -> bool:
    """Return whether a model's input is a picture."""
    return manifest.task != "raw" and not manifest.pre.window


def open_servable(path: str, threads: int | None, exclude: Mapping[str, str]) -> Servable:
    """Open a bundle's variant for this machine, prove it on the golden samples, and warm it.

    Raises:
        BundleError: The bundle is at fault.
        NoVariantError: No variant runs here; ``reasons`` says why, for each.
        GoldenError: It runs, and gives other answers than the recorded ones.
    """
    opened = open_model(path, threads=threads, exclude=exclude)
    try:
        predictor = Predictor(opened.manifest, opened.variant, opened.backend, opened.labels)
        require_golden(opened.bundle, predictor, opened.variant.precision)
        if opened.manifest.task == "raw" and _is_as_told(opened):
            return RawServable(opened)
        if takes_images(opened.manifest):
            vision().setNumThreads(1)  # OpenCV's own threads would compete with the runtime's
        predictor.warm()
        return TaskServable(opened, predictor)
    except BaseException:
        opened.close()
        raise


def offer(path: str, threads: int | None) -> Offer:
    """Return what may be opened at a path.

    Raises:
        BundleError: The bundle is at fault.
    """
    manifest = open_bundle(path).manifest
    return Offer(manifest.model, manifest.version, lambda exclude: open_servable(path, threads, exclude))


def serve(options: ServeOptions, *, told: Callable[[list[str]], object] = lambda _: None) -> int:
    """Serve until a signal; return it.

    Every model is opened before the first connection is taken, so that what cannot be served is an
    error of the command and not of a request.

    Args:
        options: What and where.
        told: Called with the URLs once connections are taken.

    Raises:
        UsageError: The options do not go together.
        ModelError, BackendError: A model cannot be served here.
        ConfigError: The token is missing or weak, or the address cannot be used.
    """
    access = access_for(options)
    offers = [offer(path, options.threads) for path in options.bundles]
    entries = [Entry(each, options.limits) for each in offers]
    app = App(Models(entries), access, options.limits, __version__)
    notifier = Notifier(os.environ.get("NOTIFY_SOCKET", ""))

    def begun(urls: list[str]) -> None:
        _log(entries, urls)
        notifier.tell("READY=1")
        told(urls)

    try:
        for entry in entries:
            entry.open_first()
        return run(app, options.address, options.limits, told=begun)
    finally:
        notifier.close()
        for entry in entries:
            entry.end()


def access_for(options: ServeOptions) -> Access:
    """Return who may ask: anyone on this machine, or whoever bears the token.

    Raises:
        UsageError: The address can be reached from other machines, and there is no token.
        ConfigError: The token's file cannot be read, or the token is too short.
    """
    host = options.address.host
    if options.token_file is not None:
        token = read_token(options.token_file)
        if host and host not in LOOPBACK and options.address.certificate is None:
            logger.warning("the token and all data cross the network in clear: give --tls-cert, --tls-key")
        return Access(token)
    if host and host not in LOOPBACK:
        raise UsageError(
            f"--host {host} can be reached from other machines, and there is no token",
            hint="give --token-file FILE, or leave --host away to serve this machine only",
        )
    return Access(hosts=_LOOPBACK_HOSTS)


def read_token(path: Path) -> str:
    """Return the token in a file.

    Raises:
        ConfigError: It cannot be read, has fewer than 16 characters, or others than printable ASCII.
    """
    try:
        token = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as cause:
        raise ConfigError(f"--token-file {path}: cannot be read: {cause}") from cause
    if len(token) < _TOKEN_BYTES or not token.isprintable() or " " in token:
        raise ConfigError(
            f"--token-file {path}: want one word of at least {_TOKEN_BYTES} characters",
            hint=f"head -c 32 /dev/urandom | base64 > {path}",
        )
    return token


def _log(entries: Sequence[Entry], urls: Sequence[str]) -> None:
    for entry in entries:
        status = entry.status()
        logger.info(
            "%s %s: variant %s, %s on %s",
            entry.offer.name,
            entry.offer.version,
            status["variant"],
            status["backend"],
            status["accelerator"],
        )
    logger.info("serving at %s", ", ".join(urls))


def _is_as_told(opened: OpenModel) -> bool:
    """Return whether the file's tensors have the datatypes the manifest gives them, or it is silent."""
    variant, backend = opened.variant, opened.backend
    rows = (
        (opened.manifest.inputs, variant.inputs, backend.inputs),
        (opened.manifest.outputs, variant.outputs, backend.outputs),
    )
    for logical, renamed, found in rows:
        types = {spec.name: spec.datatype for spec in found}
        if any(types.get(renamed.get(spec.name, spec.name)) != spec.datatype for spec in logical):
            return False
    return not opened.manifest.state


def _renamed(spec: TensorSpec, names: Mapping[str, str]) -> TensorSpec:
    return msgspec.structs.replace(spec, name=names.get(spec.name, spec.name))


def _platform(opened: OpenModel) -> str:
    """Return the protocol's name of a platform: the runtime and the file's kind.

    Source: Open Inference Protocol v2, "Platform": PROJECT_FORMAT.
    """
    files = opened.variant.files
    kind = Path(files[0].path).suffix.lstrip(".") if files else ""
    return f"{opened.variant.backend}_{kind}" if kind else opened.variant.backend


def _status(opened: OpenModel) -> dict[str, Any]:
    return {
        "variant": opened.variant.id,
        "backend": opened.variant.backend,
        "accelerator": opened.backend.accelerator,
        "precision": opened.variant.precision,
        "why": opened.selection.why,
        "rejected": {row.variant: list(row.reasons) for row in opened.selection.rejected},
        "fallbacks": dict(opened.fallbacks),
        "digest": opened.bundle.digest,
    }
