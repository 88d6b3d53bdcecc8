"""Cameras that a fleet defines for its devices: the list, what it may contain, how a device asks for it.

A list says where cameras are and how they are read. Their passwords travel beside it in the answer to one
device and are kept in files of their own there; nothing else has them.
"""

import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from edgekit.core.addresses import has_login, split_address
from edgekit.core.errors import ProtocolError
from edgekit.core.spec import NAME

KINDS = {"rtsp": True, "http": True, "camera": False}
"""The kinds of source that a list may have, and whether one takes a password. None of them runs a program,
so whoever may change a list cannot run one on the devices."""
MAX_CAMERAS = 64
MAX_LIST_BYTES = 32 << 10
MAX_PASSWORD = 256
MAX_ANSWER_BYTES = 128 << 10
FETCH_PATH = "/api/v1/cameras/fetch"
_SCHEMES = {"rtsp": ("rtsp", "rtsps"), "http": ("http", "https")}
_ADDRESSES = ("uri", "main_uri")
_SECRET = re.compile(
    r"[?&;/_](?:\w*_)?(?:(?:login)?pas(?:s|sword|swd)?|pwd|psw|token|auth|key|apikey|secret)=", re.IGNORECASE
)
_OPTION = re.compile(r"[a-z][a-z0-9_]{0,39}")
_MAX_NUMBER = 1 << 53
_FILES = ("_file", "_env")
_RESERVED = ("kind", "uri", "name", "camera", "password", "ca")


class Camera(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One camera by its name: ``kind``, ``uri`` and the further keys of its ``[source]`` table.

    ``password_unix_ms``: when its password was set, 0 where it has none; a changed password is a changed
    camera.
    """

    name: str
    kind: str
    uri: str
    options: dict[str, Any] = {}
    password_unix_ms: int = 0


class CameraList(msgspec.Struct, frozen=True, kw_only=True):
    """What a device fetches: its cameras, and their passwords by name.

    ``salt`` is of no meaning; without it, the digest in the desired state would let one try passwords.
    """

    device: str
    cameras: tuple[Camera, ...]
    passwords: dict[str, str]
    salt: str


class CameraWish(msgspec.Struct, frozen=True):
    """``config["cameras"]`` of a desired state: the SHA-256 of the device's ``CameraList``."""

    sha256: str


class CameraRequest(msgspec.Struct, frozen=True, tag="cameras"):
    """The body of a ``SignedPart`` by which a device asks for its list; ``certificate`` is its own (PEM)."""

    device: str
    certificate: str


class CameraState(msgspec.Struct, frozen=True, omit_defaults=True):
    """A device's report: the digest and cameras of the list in force, and why a newer one is not."""

    sha256: str = ""
    names: tuple[str, ...] = ()
    problem: str = ""


def request_bytes(body: bytes) -> bytes:
    """Return the bytes that a request's signature covers; the device's key signs nothing else like them."""
    return b"edgekit cameras 1\n" + body


def digest(encoded: bytes) -> str:
    """Return the SHA-256 of an encoded ``CameraList``, in hexadecimal."""
    return hashlib.sha256(encoded).hexdigest()


def decode_list(encoded: bytes, device: str) -> CameraList:
    """Return the list of a device.

    Raises:
        ProtocolError: It is malformed, is for another device, or has what no list may have.
    """
    try:
        fetched = msgspec.json.decode(encoded, type=CameraList)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as cause:
        raise ProtocolError(f"the camera list is malformed: {cause}") from cause
    if fetched.device != device:
        raise ProtocolError(f"the camera list is for device '{fetched.device[:64]}', this is '{device}'")
    problems = [*camera_problems(fetched.cameras), *_password_problems(fetched)]
    if problems:
        raise ProtocolError("the camera list is not valid", reasons=tuple(problems))
    return fetched


def camera_problems(cameras: Sequence[Camera]) -> list[str]:
    """Return why a list cannot be used, one ``camera: key: want X, got Y`` for each mistake.

    No text has an address or a value in it, since a mistake may be a password in the wrong place.
    """
    problems = []
    if len(cameras) > MAX_CAMERAS:
        problems.append(f"want at most {MAX_CAMERAS} cameras, got {len(cameras)}")
    names = [camera.name for camera in cameras]
    problems += [f"{name}: stands twice" for name in dict.fromkeys(names) if names.count(name) > 1]
    for camera in cameras[:MAX_CAMERAS]:
        problems += [f"{camera.name[:64]}: {problem}" for problem in _problems(camera)]
    if not problems and (size := len(msgspec.json.encode(cameras))) > MAX_LIST_BYTES:
        problems.append(f"want at most {MAX_LIST_BYTES} bytes, got {size}")
    return problems


def password_problem(password: str) -> str:
    """Return why a text cannot be a camera's password, without the text; empty if it can."""
    if not 0 < len(password) <= MAX_PASSWORD or password != password.strip():
        return f"want 1 to {MAX_PASSWORD} characters, and none of white space at either end"
    if not password.isprintable():
        return "want printable characters in one line"
    return ""


def source_table(camera: Camera, password_file: str) -> dict[str, Any]:
    """Return the ``[source]`` table of a camera; ``password_file`` is used where it has a password.

    >>> source_table(Camera(name="door", kind="rtsp", uri="rtsp://10.0.0.5/2", options={"user": "ann"}), "")
    {'kind': 'rtsp', 'uri': 'rtsp://10.0.0.5/2', 'user': 'ann'}
    """
    table = {"kind": camera.kind, "uri": camera.uri, **camera.options}
    return {**table, "password_file": password_file} if camera.password_unix_ms else table


def _password_problems(fetched: CameraList) -> Iterator[str]:
    wanted = {camera.name for camera in fetched.cameras if camera.password_unix_ms}
    if wanted != fetched.passwords.keys():
        yield "the passwords are not those of its cameras"
    for name, password in fetched.passwords.items():
        if problem := password_problem(password):
            yield f"{name[:64]}: password: {problem}"


def _problems(camera: Camera) -> Iterator[str]:
    if not NAME.fullmatch(camera.name):
        yield f"name: want lower-case letters, digits, '.', '_', '-', got {camera.name[:64]!r}"
    if camera.kind not in KINDS:
        yield f"kind: want one of {', '.join(KINDS)}, got {camera.kind[:64]!r}"
    elif camera.password_unix_ms and not KINDS[camera.kind]:
        yield f"kind: want one that takes a password, got {camera.kind}"
    if not camera.uri:
        yield "uri: want the camera's address, got ''"
    yield from _option_problems(camera.options)
    for key, text in {"uri": camera.uri, **camera.options}.items():
        if isinstance(text, str) and (has_login(text) or _SECRET.search(text)):
            yield f"{key}: want no password in it (@ elsewhere as %40): set it apart, and the user as 'user'"
        elif key in _ADDRESSES and camera.kind in _SCHEMES and text:
            yield from _address_problems(key, text, _SCHEMES[camera.kind])


def _address_problems(key: str, address: object, schemes: Sequence[str]) -> Iterator[str]:
    """Yield what is wrong with an address; what is none could be a password, or have one."""
    try:
        parts = split_address(str(address))
        if parts.scheme in schemes and parts.hostname:
            return
        yield f"{key}: want an address {schemes[0]}://host/path or {schemes[1]}://host/path, got another one"
    except ValueError as problem:
        yield f"{key}: {problem}"


def _option_problems(options: Mapping[str, Any]) -> Iterator[str]:
    for key, value in options.items():
        if key in _RESERVED or key.endswith(_FILES) or not _OPTION.fullmatch(key):
            yield f"{key[:40]}: want an option of the source that names no file or secret"
        elif not isinstance(value, (str, bool, int, float)):
            yield f"{key}: want a text, a number, true or false, got {type(value).__name__}"
        elif not isinstance(value, str) and not (math.isfinite(value) and abs(value) <= _MAX_NUMBER):
            yield f"{key}: want a finite number of at most {_MAX_NUMBER}, got another one"
