import contextlib
import hashlib
import io
import json
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.core.archive import checked, pieces, read_index, read_manifest
from edgekit.core.errors import BundleError, HashMismatchError

MODEL = b"a model" * 100


def manifest_bytes(**changes):
    file = {"path": "v/m.tflite", "bytes": len(MODEL), "sha256": hashlib.sha256(MODEL).hexdigest()} | changes
    document = {
        "format": 1,
        "model": "net",
        "version": "1.0.0",
        "task": "raw",
        "inputs": [],
        "outputs": [],
        "variants": [{"id": "v", "backend": "litert", "files": [file]}],
    }
    return json.dumps(document).encode()


def tar_of(members):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in members:
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            body = b"" if isinstance(content, tarfile.TarInfo) else content
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return stream


def read_all(stream):
    index = read_index(stream, "x.ekb")
    manifest, _ = read_manifest(stream, index, "x.ekb")
    return {
        f.path: b"".join(checked(pieces(stream, index[f.path]), f, "x.ekb")) for f in manifest.every_file()
    }


def link(name, kind):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info


def test_a_whole_bundle_is_read():
    assert read_all(tar_of([("bundle.json", manifest_bytes()), ("v/m.tflite", MODEL)])) == {
        "v/m.tflite": MODEL
    }


@pytest.mark.parametrize(
    "members",
    [
        [("v/m.tflite", MODEL)],
        [("bundle.json", manifest_bytes())],
        [("bundle.json", manifest_bytes()), ("v/m.tflite", MODEL), ("extra", b"x")],
        [("bundle.json", manifest_bytes()), ("v/m.tflite", MODEL), ("v/m.tflite", MODEL)],
        [("bundle.json", manifest_bytes()), ("../v/m.tflite", MODEL)],
        [("bundle.json", manifest_bytes()), ("/v/m.tflite", MODEL)],
        [("bundle.json", manifest_bytes()), ("v/m.tflite", link("v/m.tflite", tarfile.SYMTYPE))],
        [("bundle.json", manifest_bytes()), ("v/m.tflite", link("v/m.tflite", tarfile.LNKTYPE))],
        [("bundle.json", manifest_bytes()), ("v/m.tflite", link("v/m.tflite", tarfile.CHRTYPE))],
        [("bundle.json", manifest_bytes(bytes=1)), ("v/m.tflite", MODEL)],
        [("bundle.json", b"x" * (2 << 20)), ("v/m.tflite", MODEL)],
    ],
)
def test_a_hostile_or_incomplete_bundle_is_refused(members):
    with pytest.raises(BundleError):
        read_all(tar_of(members))


def test_a_wrong_hash_is_told():
    with pytest.raises(HashMismatchError, match="m.tflite"):
        read_all(tar_of([("bundle.json", manifest_bytes(sha256="0" * 64)), ("v/m.tflite", MODEL)]))


WHOLE = tar_of([("bundle.json", manifest_bytes()), ("v/m.tflite", MODEL)]).getvalue()


@given(st.integers(0, len(WHOLE) - 1))
def test_a_truncated_bundle_is_refused_or_whole(length):
    with contextlib.suppress(BundleError, HashMismatchError):
        assert read_all(io.BytesIO(WHOLE[:length])) == {"v/m.tflite": MODEL}


@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), max_size=4))
def test_a_damaged_bundle_is_refused_or_whole(damage):
    data = bytearray(WHOLE)
    for position, value in damage:
        data[position] = value
    with contextlib.suppress(BundleError, HashMismatchError):
        assert read_all(io.BytesIO(bytes(data))) == {"v/m.tflite": MODEL}


@given(st.binary(max_size=2000))
def test_junk_is_refused(data):
    with pytest.raises(BundleError):
        read_all(io.BytesIO(data))
