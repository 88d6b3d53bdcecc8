"""No part of a password that somebody typed into an address is shown, whatever characters it has."""

import logging
import string
import threading

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgekit.core.addresses import masked, shown, split_address
from edgekit.core.cameras import Camera, camera_problems
from edgekit.core.errors import EdgekitError
from edgekit.pipeline.config import parse_config
from edgekit.pipeline.sinks.http import HttpOptions as WebhookOptions
from edgekit.pipeline.sinks.mqtt import MqttOptions as MqttSinkOptions
from edgekit.pipeline.sinks.opcua import OpcUaOptions
from edgekit.pipeline.sources import SourceContext, make_source
from edgekit.pipeline.sources.command import CommandOptions
from edgekit.pipeline.sources.http import HttpOptions
from edgekit.pipeline.sources.mqtt import MqttOptions
from edgekit.pipeline.sources.rtsp import RtspOptions
from edgekit.pipeline.toml_text import toml_value
from edgekit.sync.publishers import Publishers
from edgekit.sync.webhook import Target

LEAST = 3
"""Shorter pieces are in any text."""
SNOW = "\u2603"
EACH_WAY = [
    SNOW * LEAST,
    "QXZ",
    *(SNOW + mark + SNOW for mark in "/?#[]@: \t%&;="),
]
"""Passwords that take each way through the code: what a text has in common with theirs is no leak."""
PLAIN = st.characters(exclude_categories=["Cs"])
KEYS = st.sampled_from(string.digits + "/?#@:[]%&;= \\'\"")
passwords = st.text(st.one_of(KEYS, PLAIN), min_size=LEAST)
LOGINS = ("{scheme}://ann:{password}@127.0.0.1:1/door", "{scheme}://{password}@127.0.0.1:1/door")
QUERIES = ("{scheme}://127.0.0.1:1/door?user=ann&password={password}",)


def pieces(text):
    return {text[at : at + LEAST] for at in range(len(text) - LEAST + 1)}


def assert_hidden(said, password, forms, scheme):
    """Check that what is said of an address has no piece of its password that it has of no other."""
    allowed = set(pieces(scheme + "://ann:@127.0.0.1:1/door?user=ann&password="))
    for form in forms:
        for other in EACH_WAY:
            allowed |= pieces(said(form.format(scheme=scheme, password=other)))
        text = said(form.format(scheme=scheme, password=password))
        assert not pieces(password) & (pieces(text) - allowed), text


@settings(max_examples=300)
@given(passwords)
@example("12/34")
@example("1234/56?x")
@example("a@b?c@d")
def test_an_address_is_shown_without_its_password(password):
    assert_hidden(shown, password, (*LOGINS, *QUERIES), "rtsp")
    assert_hidden(
        lambda uri: masked(f"cannot open '{uri}': refused", uri), password, LOGINS + QUERIES, "rtsp"
    )


@settings(max_examples=300)
@given(passwords)
@example("12/34")
def test_a_camera_list_with_a_password_in_an_address_is_refused_without_it(password):
    def said(uri):
        problems = camera_problems([Camera(name="door", kind="rtsp", uri=uri)])
        assert problems
        also = camera_problems([Camera(name="a", kind="rtsp", uri="rtsp://h", options={"main_uri": uri})])
        assert also
        return "\n".join(problems + also)

    assert_hidden(said, password, (*LOGINS, *QUERIES), "rtsp")
    assert_hidden(said, password, ("ann:{password}@127.0.0.1/door",), "")  # no scheme: it could not be judged


def problems_of(options):
    return "\n".join(getattr(options, "problems", tuple)())


class Said(logging.Handler):
    """What is logged below ``edgekit``."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())

    def __enter__(self):
        logging.getLogger("edgekit").addHandler(self)
        return self

    def __exit__(self, *_):
        logging.getLogger("edgekit").removeHandler(self)


def said_of_source(kind, options):
    """Return all that a source says of an address at which nobody answers."""
    with Said() as log:
        said = [problems_of(options)]
        if not said[0]:
            source = make_source(kind, options, SourceContext(window=0))
            try:
                source.open()
            except EdgekitError as error:
                said += [str(error), error.hint, *error.reasons]
            said += [str(getattr(source, "state", dict)())]
            source.close()
    return "\n".join([*said, *log.lines])


SOURCES = {
    "rtsp": lambda uri: RtspOptions(uri=uri, open_s=1, give_up_s=0.01),
    "http": lambda uri: HttpOptions(uri=uri, give_up_s=0.01),
    "mqtt": lambda uri: MqttOptions(uri=uri, topic="t", give_up_s=0.01),
}


@pytest.mark.parametrize("kind", SOURCES)
@settings(max_examples=60)
@given(password=passwords)
@example("12/34")
@example("1234/5678")
def test_a_source_that_cannot_be_opened_says_no_part_of_a_password(kind, password):
    assert_hidden(lambda uri: said_of_source(kind, SOURCES[kind](uri)), password, (*LOGINS, *QUERIES), kind)


def said_of_sink(kind, options, open_way):
    said = problems_of(options)
    if not said:
        try:
            said = open_way(options.url)
        except EdgekitError as error:
            said = "\n".join([str(error), error.hint])
    return said


class NoBooks:
    def add(self, *_):
        pass


def destination_of_broker(url):
    publishers = Publishers("p", ("labels",), NoBooks())
    try:
        publishers.connect(url)
        return str([state["destination"] for state in publishers.states()])
    finally:
        for publisher in publishers._shared.values():
            publisher.close(0.0)


@pytest.mark.parametrize(
    ("kind", "options", "open_way"),
    [
        ("mqtt", lambda url: MqttSinkOptions(url=url), destination_of_broker),
        ("http", lambda url: WebhookOptions(url=url), lambda url: Target(url, "text/plain").destination),
        ("opc.tcp", lambda url: OpcUaOptions(url=url), lambda url: ""),
    ],
)
@settings(max_examples=60)
@given(password=passwords)
@example("12/34")
@example("secret/x")
def test_a_sink_says_no_part_of_a_password(kind, options, open_way, password):
    for form in LOGINS[:1]:
        assert_hidden(
            lambda url: said_of_sink(kind, options(url), open_way), password, (form, *QUERIES), kind
        )


@settings(max_examples=100)
@given(passwords)
@example("12/34")
def test_a_pipelines_file_that_is_refused_says_no_part_of_a_password(password):
    def said(uri):
        address = toml_value(uri)
        text = f"""
            pipeline = {{ name = "p", model = "m" }}
            source = {{ kind = "rtsp", uri = {address}, give_up_s = "ten", transport = "pigeon" }}
            sink = [
                {{ kind = "mqtt", url = {address}, topic = "#" }},
                {{ kind = "http", url = {address}, image = 3 }},
            ]
        """
        try:
            parse_config(text, "p.toml", ".")
        except EdgekitError as error:
            return "\n".join([str(error), error.hint, *error.reasons])
        raise AssertionError("it was to be refused")

    assert_hidden(said, password, (*LOGINS, *QUERIES), "rtsp")


@settings(max_examples=40)
@given(
    st.text(st.one_of(st.sampled_from(string.digits + "/?#@:[]%&;= '"), PLAIN), min_size=LEAST, max_size=40)
)
@example("12/34")
@example("a b@c")
@example("1234/5678")
@example("\x1e00 ")
def test_a_programs_last_words_have_no_part_of_a_password(password):
    script = 'printf "opening %s\\n%s: refused\\n" "$0" "$0" >&2'

    def said(uri):
        uri = uri.replace("\0", "")
        options = CommandOptions(
            width=8, height=8, command=("/bin/sh", "-c", script, uri), give_up_s=0.01, stall_s=5
        )
        return said_of_source("command", options)

    assert_hidden(said, password.replace("\0", ""), (LOGINS[0], *QUERIES), "rtsp")


@pytest.mark.parametrize(
    "uri",
    [
        "rtsp://ann:12%2F34@door/1",
        "rtsp://[::1]:554/1?a=1",
        "rtsp://door",
        "rtsp://ann:a:b@c@door/1",
        "/dev/video0",
    ],
)
def test_an_address_that_can_be_read_in_one_way_is_taken(uri):
    assert split_address(uri).geturl() == uri


@pytest.mark.parametrize(
    "uri",
    ["rtsp://ann:12/34@door", "rtsp://ann:1?2@door", "rtsp://door/a@b", "rtsp://door/a b", "rtsp://d:x/"],
)
def test_an_address_that_can_be_read_in_two_ways_is_refused_with_the_way_to_write_it(uri):
    with pytest.raises(ValueError, match="want .*%2"):
        split_address(uri)


def test_the_threads_of_what_was_tried_here_have_ended():
    names = ("publish-", "rtsp", "command-log")
    for thread in threading.enumerate():
        if thread.name.startswith(names):
            thread.join(30)
            assert not thread.is_alive(), thread
