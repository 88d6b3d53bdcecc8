"""The page's routes: nobody without the token, one encoding for all watchers, streams that end."""

import asyncio
import contextlib
import json
import threading

import pytest

from edgekit.core.errors import UsageError
from edgekit.serve.view.app import PageApp
from edgekit.serve.view.feed import Feed
from edgekit.serve.view.login import Login
from edgekit.serve.view.page import STATIC, Page
from edgekit.serve.view.ports import Shown, Told

TOKEN = "0123456789abcdef"
HOST = (b"host", b"127.0.0.1:8008")
BEARER = (b"authorization", b"Bearer " + TOKEN.encode())


class ScriptedView:
    """A pipeline whose frames a test makes."""

    name = "door"

    def __init__(self, number=1):
        self.number, self.encoded, self.sent, self.changes = number, 0, [], []
        self.told = [Told(1, b'{"label":"cat"}', self.record)]
        self._wakes, self._heard = [], asyncio.Event()

    def record(self, client, size):
        self.sent.append((client, size))
        self._heard.set()

    async def has_sent(self, count):
        """Wait until so many pieces were sent."""
        while len(self.sent) < count:
            self._heard.clear()
            await self._heard.wait()

    @contextlib.contextmanager
    def watched(self, wake):
        self._wakes.append(wake)
        yield
        self._wakes.remove(wake)

    def frame(self):
        self.encoded += 1
        return Shown(self.number, b'{"total":1}', b"JPEG", self.record)

    def arrives(self):
        self.number += 1
        for wake in list(self._wakes):
            wake()

    def events(self, after):
        return [told for told in self.told if told.number > after]

    def figures(self):
        return Told(0, b'{"fps":9.0}', self.record)

    def shapes(self):
        return Told(0, b'{"zone":[]}', self.record)

    def save(self, wanted):
        self.changes.append(wanted)
        return "now"

    def turn(self, wanted):
        self.changes.append(wanted)

    def change(self, wanted):
        if "score_threshold" not in wanted:
            raise UsageError("want score_threshold")
        self.changes.append(wanted)


class Answer:
    def __init__(self, messages):
        self.status = messages[0]["status"]
        self.headers = dict(messages[0]["headers"])
        self.body = b"".join(message.get("body", b"") for message in messages[1:])


async def ask(page, method, path, *headers, query=b"", body=b"", leaves=None):
    """One request; a visitor with ``leaves`` hangs up once that is set."""
    sent, given = [], [{"type": "http.request", "body": body}]

    async def receive():
        if given:
            return given.pop()
        await (leaves or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query,
        "headers": [HOST, *headers],
    }
    await PageApp(page)({**scope, "client": ("192.0.2.7", 4000)}, receive, send)
    return Answer(sent)


def page_of(view):
    return Page(lambda: {view.name: view}, Login(TOKEN, is_tls=False))


def get(path, *headers, view=None, method="GET", **rest):
    return asyncio.run(ask(page_of(view or ScriptedView()), method, path, *headers, **rest))


def test_the_link_becomes_a_cookie_and_leaves_the_address_bar():
    answer = get("/", query=b"token=" + TOKEN.encode())
    assert (answer.status, answer.headers[b"location"]) == (303, b"/")
    cookie = answer.headers[b"set-cookie"]
    assert cookie.startswith(b"edgekit-page-8008=")
    assert b"HttpOnly" in cookie
    assert TOKEN.encode() not in cookie
    shown = get("/", (b"cookie", cookie.partition(b";")[0]))
    assert (shown.status, shown.body) == (200, (STATIC / "page.html").read_bytes())


@pytest.mark.parametrize("query", [b"", b"token=", b"token=0123456789abcdeF", b"token=%FF"])
def test_a_wrong_token_gets_the_form_and_nothing_else(query):
    answer = get("/", query=query)
    assert answer.status == 401
    assert answer.body == (STATIC / "sign-in.html").read_bytes()
    assert b"set-cookie" not in answer.headers


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/page/pipelines"),
        ("GET", "/page/pipelines/door/frame"),
        ("GET", "/page/pipelines/door/events"),
        ("GET", "/page/pipelines/door/figures"),
        ("POST", "/page/pipelines/door/settings"),
        ("POST", "/page/pipelines/door/switch"),
        ("GET", "/page/pipelines/none/frame"),
        ("GET", "/page/pipelines/door/shapes"),
        ("POST", "/page/pipelines/door/shapes"),
    ],
)
@pytest.mark.parametrize(
    "header", [None, (b"cookie", b"edgekit-page-8008=" + TOKEN.encode()), (b"authorization", b"Bearer wrong")]
)
def test_nothing_of_a_pipeline_is_shown_without_the_token(method, path, header):
    view = ScriptedView()
    answer = get(path, *([header] if header else []), view=view, method=method)
    assert (answer.status, view.encoded, view.sent, view.changes) == (401, 0, [], [])


def test_whoever_types_the_token_in_is_signed_in():
    right = get("/page/sign-in", method="POST", body=b"token=" + TOKEN.encode())
    assert (right.status, right.headers[b"location"]) == (303, b"/")
    assert b"set-cookie" in right.headers
    wrong = get("/page/sign-in", method="POST", body=b"token=guess")
    assert (wrong.status, b"set-cookie" in wrong.headers) == (303, False)


def test_another_site_changes_nothing():
    view = ScriptedView()
    path, body = "/page/pipelines/door/settings", b'{"score_threshold":0.7}'
    refused = get(path, BEARER, (b"origin", b"http://evil.example"), view=view, method="POST", body=body)
    assert (refused.status, view.changes) == (403, [])
    own = get(path, BEARER, (b"origin", b"http://127.0.0.1:8008"), view=view, method="POST", body=body)
    assert (own.status, view.changes) == (200, [{"score_threshold": 0.7}])
    wrong = get(path, BEARER, view=view, method="POST", body=b"{}")
    assert (wrong.status, json.loads(wrong.body)) == (400, {"error": "want score_threshold"})
    for odd in (b"[1]", b"{", b"\xff"):
        assert get(path, BEARER, view=view, method="POST", body=odd).status == 400
    assert get(path, BEARER, view=view, method="POST", body=b" " * 70_000).status == 413


def test_the_switch_is_turned_by_whoever_has_the_token_and_by_no_other_site():
    view = ScriptedView()
    path, body = "/page/pipelines/door/switch", b'{"to":"off"}'
    assert get(path, BEARER, (b"origin", b"http://evil"), view=view, method="POST", body=body).status == 403
    assert view.changes == []
    answer = get(path, BEARER, view=view, method="POST", body=body)
    assert (answer.status, answer.body, view.changes) == (200, b'{"fps":9.0}', [{"to": "off"}])
    assert get(path, BEARER, view=view).status == 405


def test_every_answer_has_the_policy_and_files_outside_are_not_served():
    for path in (
        "/",
        "/page/static/page.js",
        "/page/static/page.css",
        "/page/static/icon.svg",
        "/page/pipelines",
    ):
        headers = get(path).headers
        assert b"default-src 'none'" in headers[b"content-security-policy"]
        assert b"unsafe" not in headers[b"content-security-policy"]
        assert headers[b"x-content-type-options"] == b"nosniff"
    for path in (
        "/page/static/../page.py",
        "/page/static/..%2fpage.py",
        "/page/static/",
        "/page/static/none.js",
    ):
        assert get(path).status == 404


def test_no_file_of_the_page_has_inline_script_or_asks_elsewhere():
    for path in STATIC.iterdir():
        text = path.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "//" not in text.replace("// ", "")
        if path.suffix == ".html":
            assert "<script>" not in text
            assert "style=" not in text
            assert " on" not in text.replace(" only", "")


def test_a_frame_is_its_length_its_document_and_its_picture():
    view = ScriptedView(number=5)
    answer = get("/page/pipelines/door/frame", BEARER, view=view, query=b"after=3")
    length = int.from_bytes(answer.body[:4], "big")
    assert json.loads(answer.body[4 : 4 + length]) == {"number": 5, "frame": {"total": 1}}
    assert answer.body[4 + length :] == b"JPEG"
    assert view.sent == [("192.0.2.7", len(answer.body))]


def test_many_watchers_cost_one_encoding_a_frame_and_at_most_so_many_a_second():
    async def watch():
        view, loop = ScriptedView(), asyncio.get_running_loop()
        feed, began_s = Feed(view, most_per_s=20.0), loop.time()
        for _ in range(4):
            shown = await asyncio.gather(*(feed.after(view.number - 1) for _ in range(5)))
            assert {one.number for one in shown} == {view.number}
            view.arrives()
        return view.encoded, loop.time() - began_s

    encoded, took_s = asyncio.run(watch())
    assert encoded == 4
    assert took_s >= 3 / 20


def test_who_has_the_newest_frame_waits_for_the_next_and_then_for_none():
    async def wait():
        view = ScriptedView()
        feed = Feed(view)
        assert await feed.after(view.number, wait_s=0.05) is None
        waiting = asyncio.ensure_future(feed.after(view.number, wait_s=30))
        await asyncio.sleep(0)
        thread = threading.Thread(target=view.arrives)  # the pipeline's own
        thread.start()
        thread.join()
        assert (await waiting).number == 2
        assert (await feed.after(10_000, wait_s=30)).number == 2  # a page that knew an earlier run

    asyncio.run(wait())


def test_events_come_as_they_happen_and_are_not_told_twice():
    async def follow():
        view, leaves = ScriptedView(), asyncio.Event()
        stream = asyncio.ensure_future(
            ask(page_of(view), "GET", "/page/pipelines/door/events", BEARER, leaves=leaves)
        )
        await view.has_sent(2)
        view.told.append(Told(2, b'{"label":"dog"}', view.record))
        await view.has_sent(3)
        leaves.set()
        return (await stream).body.decode()

    text = asyncio.run(follow())
    assert text.count('event: happened\ndata: {"label":"cat"}\n\n') == 1
    assert 'id: 2\nevent: happened\ndata: {"label":"dog"}\n\n' in text
    assert 'event: figures\ndata: {"fps":9.0}\n\n' in text


def test_a_stream_goes_on_after_the_last_event_that_a_browser_has_and_ends_with_the_page():
    async def follow():
        view = ScriptedView()
        page = page_of(view)
        view.told.append(Told(2, b'{"label":"dog"}', view.record))
        stream = asyncio.ensure_future(
            ask(page, "GET", "/page/pipelines/door/events", BEARER, (b"last-event-id", b"1"))
        )
        await view.has_sent(1)
        page.close()
        return (await asyncio.wait_for(stream, 5)).body

    body = asyncio.run(follow())
    assert b"dog" in body
    assert b"cat" not in body
