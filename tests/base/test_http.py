"""The one HTTP client: bodies in pieces, refusals, addresses and limits."""

import http.server
import math
import threading

import pytest
from dripping_server import dripping

from edgekit.base.http import Patience, Web
from edgekit.core.errors import ConfigError, LinkError

PATIENCE = Patience(math.inf, 60.0)


class Echo(http.server.BaseHTTPRequestHandler):
    """Answers with the status that the path names: the method, a header and the body of the request."""

    def do_PUT(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        answer = b" ".join([self.command.encode(), self.headers["Authorization"].encode(), body])
        self.send_response(int(self.path.strip("/").partition("?")[0]))
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def url():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("status", [200, 302, 409])
def test_a_body_in_pieces_arrives_whole_and_the_status_and_answer_come_back(url, status):
    headers = {"Authorization": "Bearer t", "Content-Length": "6"}
    pieces = (piece for piece in (b"ab", b"cd", b"ef"))
    answer = Web(None, PATIENCE).send("PUT", f"{url}/{status}?a=b", 100, pieces, headers)
    assert answer == (status, b"PUT Bearer t abcdef")


def test_an_answer_over_the_limit_is_an_error(url):
    with pytest.raises(LinkError, match="longer than 5 bytes"):
        Web(None, PATIENCE).send("PUT", f"{url}/200", 5, b"abc", {"Authorization": "x"})


@pytest.mark.parametrize(
    "bad", ["http://127.0.0.1:port/", "ftp://127.0.0.1/", "http:///path", "https://[::1/"]
)
def test_what_is_no_address_is_a_configuration_error(bad):
    with pytest.raises(ConfigError):
        Web(None, PATIENCE).send("GET", bad, 5)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("start", "drop"),
    [
        (b"", b"H"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;", b"x"),
    ],
    ids=["status", "header", "continue", "chunk"],
)
def test_a_head_that_comes_byte_by_byte_without_an_end_is_too_slow(start, drop):
    """Each byte comes in time, all of them never would."""
    with dripping(start, drop) as url, pytest.raises(LinkError, match="timed out"):
        Web(None, PATIENCE, silence_s=0.3).get(url, 100)


def test_what_does_not_speak_http_is_not_repeated():
    with dripping(b"\x1b[2J\r\n\r\n") as url, pytest.raises(LinkError) as caught:
        Web(None, PATIENCE).get(url, 100)
    assert caught.value.message == f"{url}: what answers does not speak HTTP"
