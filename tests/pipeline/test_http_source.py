"""A camera on HTTP gives its newest picture, comes back after anything, and no log has its secrets."""

import contextlib
import hashlib
import threading
import time

import pytest
from dripping_server import dripping
from hypothesis import given
from hypothesis import strategies as st
from picture_server import PictureServer, jpeg

from edgekit.base.http_login import authorization
from edgekit.core.errors import LinkError, SourceError
from edgekit.pipeline.multipart import MAX_PART_BYTES, boundary_of, newest_parts
from edgekit.pipeline.sources import SourceContext, make_source
from edgekit.pipeline.sources.http import HttpOptions


@pytest.fixture
def camera():
    server = PictureServer()
    yield server
    server.close()


@pytest.fixture
def opened(camera, tmp_path):
    sources = []

    def make(path="/stream", **options):
        options = {"fps": 100, "stall_s": 1.0, **options}
        sources.append(
            make_source("http", HttpOptions(uri=camera.url + path, **options), SourceContext(folder=tmp_path))
        )
        sources[-1].open()
        return sources[-1]

    yield make
    for source in sources:
        source.close()


def shade(frame):
    return round(float(frame.data.mean()))


@pytest.mark.parametrize("with_length", [True, False])
def test_a_stream_of_pictures_is_read_whether_or_not_it_says_their_length(camera, opened, with_length):
    camera.with_length = with_length
    source = opened()
    frames = [source.read() for _ in range(5)]
    assert [shade(frame) for frame in frames] == [50] * 5
    seqs = [frame.seq for frame in frames]
    assert seqs == sorted(set(seqs))
    camera.shade = 150
    assert 150 in [shade(source.read()) for _ in range(10)]


def test_a_snapshot_is_asked_for_at_its_rate_and_one_that_has_not_changed_is_no_frame(camera, opened):
    camera.etag = '"1"'
    source = opened("/picture.jpg")
    assert shade(source.read()) == 50
    read = []
    thread = threading.Thread(target=lambda: read.append(source.read()))
    thread.start()
    while source.counts()["unchanged"] < 3:
        time.sleep(0.005)
    camera.shade, camera.etag = 200, '"2"'
    thread.join(10)
    assert (shade(read[0]), read[0].seq) == (200, 1)
    assert camera.asked[1]["If-None-Match"] == '"1"'


@pytest.mark.parametrize("path", ["/picture.jpg", "/stream"])
def test_a_picture_hands_on_the_trace_that_it_comes_with(camera, opened, path):
    trace = "0af7651916cd43dd8448eb211c80319c"
    source = opened(path)
    assert "trace_id" not in source.read().meta
    for header, handed_on in ((f"00-{trace}-b7ad6b7169203331-01", trace), ("00-zz-1-01", None)):
        camera.traceparent = header
        assert handed_on in [source.read().meta.get("trace_id") for _ in range(10)]


@pytest.mark.parametrize("login", ["basic", "digest"])
def test_the_login_is_given_where_it_is_asked_for(camera, opened, tmp_path, login):
    (tmp_path / "secret").write_text("se:cret\n")
    camera.login = login
    source = opened("/picture.jpg?x=1", user="ann", password_file="secret")
    assert [shade(source.read()) for _ in range(3)] == [50] * 3


def test_a_wrong_password_an_unknown_address_and_a_closed_port_have_their_codes(camera, opened, tmp_path):
    (tmp_path / "secret").write_text("wrong")
    camera.login = "digest"
    with pytest.raises(SourceError) as caught:
        opened("/picture.jpg?token=hidden", user="ann", password_file="secret")
    assert caught.value.fault == "AUTH_FAILED"
    assert "hidden" not in caught.value.message
    camera.login, camera.status = "", 404
    with pytest.raises(SourceError) as caught:
        opened("/picture.jpg")
    assert caught.value.fault == "NOT_FOUND"
    source = make_source("http", HttpOptions(uri="http://127.0.0.1:9/x?token=hidden"), SourceContext())
    with pytest.raises(SourceError) as caught:
        source.open()
    assert caught.value.fault == "CONNECTION_FAILED"
    assert "hidden" not in caught.value.message


SNAPSHOT = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: 1000000\r\n\r\n"


@pytest.mark.timeout(60)
def test_a_snapshot_that_comes_byte_by_byte_is_a_stall():
    with dripping(SNAPSHOT, b"x") as url:
        source = make_source("http", HttpOptions(uri=url, stall_s=0.3), SourceContext())
        with pytest.raises(SourceError, match=r"/x': (\d+ bytes in 0.3 s are too few|timed out)") as caught:
            source.open()
    assert caught.value.fault == "STALLED"


def test_a_long_snapshot_may_take_longer_than_a_stall():
    whole = jpeg(77) + bytes(800_000)
    head = SNAPSHOT.replace(b"1000000", b"%d" % len(whole))
    with dripping(head + jpeg(77), bytes(5_000)) as url:
        source = make_source("http", HttpOptions(uri=url, stall_s=1), SourceContext())
        source.open()
        assert shade(source.read()) == 77
        source.close()


@pytest.mark.timeout(60)
def test_closing_ends_a_snapshot_that_is_still_coming():
    with dripping(SNAPSHOT, bytes(500)) as url:
        source = make_source("http", HttpOptions(uri=url, stall_s=60), SourceContext())
        threading.Timer(0.2, source.close).start()
        began_s = time.monotonic()
        with contextlib.suppress(SourceError):
            source.open()
        assert source.read() is None
        assert time.monotonic() - began_s < 20  # the whole of it takes 40


def test_a_stream_that_stalls_or_ends_is_connected_again(camera, opened):
    source = opened(stall_s=0.3)
    source.read()
    camera.is_frozen.set()
    threading.Timer(0.6, camera.is_frozen.clear).start()
    camera.shade = 99
    while shade(source.read()) != 99:
        pass
    assert source.state()["reopened"] >= 1
    assert source.state()["fault"] == "STALLED"
    camera.pictures_before_end, before = 2, source.reopener.reopened
    while source.reopener.reopened < before + 2:
        source.read()
    assert source.state()["fault"] == ""


@pytest.mark.parametrize("uri", ["ftp://x/y", "http:///x", "http://", "door/snapshot.jpg"])
def test_an_address_that_cannot_be_right_is_refused_without_being_shown(uri):
    (problem,) = HttpOptions(uri=uri).problems()
    assert "want an address http://host/path" in problem
    (problem,) = HttpOptions(uri="http://ann:hunter2/x").problems()
    assert "cannot be parsed" in problem
    (problem,) = HttpOptions(uri="http://ann:secret@x/").problems()
    assert "secret" not in problem


# -- its parts


def body(*parts, with_length=True):
    text = b""
    for part in parts:
        length = b"Content-Length: %d\r\n" % len(part) if with_length else b""
        text += b"--b\r\nContent-Type: image/jpeg\r\n" + length + b"\r\n" + part + b"\r\n"
    return text + b"--b--\r\n"


@given(
    st.lists(
        st.binary(max_size=40).filter(lambda part: b"--b" not in part and not part.endswith(b"\r")),
        max_size=5,
    ),
    st.lists(st.integers(0, 400), max_size=6),
    st.booleans(),
)
def test_parts_are_the_same_however_the_bytes_arrive_and_the_newest_counts(parts, cuts, with_length):
    data, at, pieces = body(*parts, with_length=with_length), 0, []
    for cut in [*sorted(c % (len(data) + 1) for c in cuts), len(data)]:
        pieces.append(data[at:cut])
        at = cut
    found = list(newest_parts(pieces, b"--b"))
    assert sum(left_out + 1 for left_out, _ in found) == len(parts)
    assert [part.body for _, part in found] == [parts[n] for n in _ends(found)]


def _ends(found):
    at = -1
    for left_out, _ in found:
        at += left_out + 1
        yield at


def test_a_part_without_an_end_is_not_kept_for_ever():
    pieces = (bytes(1 << 20) for _ in range((MAX_PART_BYTES >> 20) + 2))
    with pytest.raises(LinkError, match="larger than 32 MiB"):
        list(newest_parts((part for part in (b"--b\r\n\r\n", *pieces)), b"--b"))
    assert boundary_of("multipart/x-mixed-replace;boundary=b; x=1") == b"--b"


def test_the_answer_to_a_challenge_is_the_published_one():
    """Source: RFC 7616, section 3.9.1."""
    start = 'Digest realm="http-auth@example.org", qop="auth, auth-int", '
    end = ', nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", '
    end += 'opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
    cnonce = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
    for algorithm, response in (
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ):
        challenge = f"{start}algorithm={algorithm}{end}"
        value = authorization([challenge], "GET", "/dir/index.html", "Mufasa", "Circle of Life", cnonce)
        assert f'response="{response}"' in value
    assert (
        authorization(["Basic realm=x"], "GET", "/", "Aladdin", "open sesame")
        == "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
    )
    assert authorization(["Negotiate"], "GET", "/", "a", "b") == ""
    plain = authorization(['Digest realm="r", nonce="n"'], "GET", "/", "a", "b")
    ha1, ha2 = (hashlib.md5(text).hexdigest() for text in (b"a:r:b", b"GET:/"))
    assert hashlib.md5(f"{ha1}:n:{ha2}".encode()).hexdigest() in plain
