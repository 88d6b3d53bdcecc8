"""Adapters to the runtime libraries: one file each, in a table by name, imported only when used.

In: a model file or its bytes, the variant to run, and this machine's options. Out: a ``Backend`` (see
``edgekit.core.ports``) that maps NumPy arrays by input name to arrays by output name, on the accelerator
that the variant names and no other; or an error that says why not and what to do.

    backend = open_backend(Path("net.onnx"), Variant(id="fp32", backend="onnxruntime"), {"threads": 2})
    scores = backend.infer({"image": pixels})["scores"]
    backend.close()

A vendor's library that needs a Python of its own runs behind ``foreign``, in a second process. ``probe``
proves a backend in a child process.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from edgekit.base.install_hint import install_hint
from edgekit.core.errors import BackendUnavailableError, ConfigError, ModelLoadError
from edgekit.core.ports import Backend, ModelData
from edgekit.core.spec import MAX_BATCH, Variant

__all__ = [
    "BACKENDS",
    "FOREIGN_TENANTS",
    "LIBRARIES",
    "MACHINE_OPTIONS",
    "OPTIONS",
    "backend_version",
    "check_options",
    "open_backend",
]

BACKENDS: Mapping[str, str] = MappingProxyType(
    {
        "litert": "edgekit.backends.litert:LiteRtBackend",
        "onnxruntime": "edgekit.backends.onnxruntime:OnnxRuntimeBackend",
        "openvino": "edgekit.backends.openvino:OpenVinoBackend",
        "foreign": "edgekit.backends.foreign:ForeignBackend",
        "null": "edgekit.backends.null:NullBackend",
    }
)
"""The class of each backend; a new backend is one file and a row here, in LIBRARIES and in OPTIONS."""

LIBRARIES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "litert": ("ai-edge-litert", "tflite-runtime"),
        "onnxruntime": ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-qnn"),
        "openvino": ("openvino",),
        "foreign": (),
        "null": (),
    }
)
"""The distributions that contain each backend's library, in order of preference."""

FOREIGN_TENANTS: Mapping[str, str] = MappingProxyType({"myriad": "myriad.py", "tensorrt": "tensorrt.py"})
"""What can run in a foreign interpreter: files in ``edgekit/backends/tenants``."""

_COMMON = frozenset({"batch", "threads", "shapes"})
OPTIONS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "litert": _COMMON | {"device", "delegate"},
        "onnxruntime": _COMMON
        | {
            "cache",
            "device",
            "optimization",
            "provider",
            "provider_library",
            "provider_options",
            "spinning",
            "arena",
        },
        "openvino": _COMMON | {"cache", "device", "properties"},
        "foreign": _COMMON
        | {"cache", "device", "python", "tenant", "tenant_options", "start_timeout_s", "timeout_s"},
        "null": frozenset(
            {
                "crash_at",
                "lose_at",
                "fail_at",
                "hang_at",
                "inputs",
                "jitter_ms",
                "keeps_state",
                "latency_ms",
                "load_ms",
                "outputs",
                "seed",
            }
        )
        | _COMMON,
    }
)
"""The options each backend knows; any other is an error."""

MACHINE_OPTIONS = frozenset({"cache", "delegate", "provider_library", "python"})
"""Options that name files of the host: a device profile may set them, a bundle may not."""


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Refuse options that the backend does not have.

    Raises:
        ConfigError: There is no such backend, or it has no such option.
    """
    _require_backend(name)
    known = OPTIONS[name]
    unknown = sorted(set(options) - known)
    if unknown:
        raise ConfigError(
            f"backend {name!r} has no option {', '.join(map(repr, unknown))}",
            hint=f"it knows: {', '.join(sorted(known))}",
        )


def _require_backend(name: str) -> None:
    if name not in BACKENDS:
        raise ConfigError(f"there is no backend {name!r}", hint=f"one of: {', '.join(BACKENDS)}")


def open_backend(data: ModelData, variant: Variant, options: Mapping[str, Any] | None = None) -> Backend:
    """Return one model, loaded in the backend that its variant names.

    Args:
        data: The variant's first file, or the bytes of its files.
        variant: What to run and on which accelerator, with options of its own.
        options: The machine's (the profile's), which win over the variant's. ``batch``: the samples in
            one run, by default the variant's first batch size.

    Raises:
        ConfigError: An option is unknown, or ``batch`` is not a number from 1 to 1024.
        BackendUnavailableError: The library or the accelerator is not on this machine.
        ModelLoadError: The library refuses the file, or the variant names a host file or was built for
            another batch size.
    """
    forbidden = sorted(MACHINE_OPTIONS & set(variant.options))
    if forbidden:
        raise ModelLoadError(
            f"variant {variant.id!r} sets {', '.join(map(repr, forbidden))}, which name files of the host",
            hint="only the machine may: move these options to the device profile",
        )
    merged = {**variant.options, **(options or {})}
    check_options(variant.backend, merged)
    merged["batch"] = _batch(variant, merged)
    module, _, attribute = BACKENDS[variant.backend].partition(":")
    try:
        kind = getattr(importlib.import_module(module), attribute)
    except ImportError as cause:
        raise BackendUnavailableError(
            f"backend {variant.backend!r} cannot be imported: {cause}", hint=install_hint(variant.backend)
        ) from cause
    backend: Backend = kind(data, variant, merged)
    return backend


def _batch(variant: Variant, options: Mapping[str, Any]) -> int:
    sizes = () if variant.batch == "free" else variant.batch
    batch = options.get("batch", sizes[0] if sizes else 1)
    if not isinstance(batch, int) or isinstance(batch, bool) or not 1 <= batch <= MAX_BATCH:
        raise ConfigError(f"option 'batch': want a number from 1 to {MAX_BATCH}, got {batch!r}")
    if sizes and batch not in sizes:
        raise ModelLoadError(
            f"variant {variant.id!r} was built for batch {' or '.join(map(str, sizes))}, not {batch}",
            hint="open it at one of these, or publish a variant with a free batch",
        )
    return batch


def backend_version(name: str) -> str | None:
    """Return the version of a backend's installed library, or None, without importing it.

    ``null`` and ``foreign`` have edgekit's version.

    Raises:
        ConfigError: There is no such backend.
    """
    from importlib.metadata import PackageNotFoundError, version  # 1.5 MB, and few processes ask

    _require_backend(name)
    for distribution in LIBRARIES[name] or ("edgekit-runtime",):
        with contextlib.suppress(PackageNotFoundError):
            return version(distribution)
    return None
