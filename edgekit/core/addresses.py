"""Addresses that may have a login in them: their parts, and a text of them that may be shown.

People type passwords as they are, with ``/``, ``?``, ``#`` and ``@``, and an address with such a password can
be read in two ways: ``rtsp://ann:12/34@door`` is the host ``ann`` with the port 12, too.
"""

import re
from urllib.parse import SplitResult, quote, unquote, urlsplit

HIDDEN = "***"
LEAST_SECRET = 3
"""Shorter pieces of a password are not looked for in a text: every text has them."""
_ESCAPED = "/ ? # [ ] as %2F %3F %23 %5B %5D"
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*", re.IGNORECASE)
_QUERY = re.compile(r"[?#;&]")
_ENDS = re.compile(r"[/?#;&=@:\s]+")


def split_address(uri: str) -> SplitResult:
    """Return the parts of an address that can be read in one way only; its port is valid.

    >>> split_address("rtsp://ann:12%2F34@door:554/1").password
    '12%2F34'

    Raises:
        ValueError: It cannot be read, or in two ways. The text has no part of the address.
    """
    if not uri.isprintable() or any(character.isspace() for character in uri):
        raise ValueError("want a space as %20, got an address with one or with a control character")
    try:
        parts = urlsplit(uri)
        _ = parts.port
    except ValueError:
        raise ValueError(f"want {_ESCAPED} in a password, got an address that cannot be parsed") from None
    if "@" in parts.path + parts.query + parts.fragment:
        raise ValueError(f"want {_ESCAPED} in a password and @ as %40, got an address with @ behind its host")
    return parts


def has_login(uri: str) -> bool:
    """Return whether an address may have a login in it.

    >>> [has_login(uri) for uri in ("//h/1", "//ann@h", "//ann:1/2@h", "//h/a%40b", "a@b")]
    [False, True, True, False, False]
    """
    return "@" in uri.partition("//")[2]


def shown(uri: str) -> str:
    """Return any address without its credentials and query, for logs and errors.

    Nothing but its scheme is shown where an ``@`` may be one of a password or not, and of a path nothing from
    the part on that has a value in it.

    >>> shown("rtsps://ann:secret@door.lan/stream1?token=abc")
    'rtsps://door.lan/stream1'
    >>> shown("rtsp://ann:12/34@door/1")
    'rtsp://***'
    >>> shown("rtsp://door/live/user=ann_password=secret_channel=1")
    'rtsp://door/live'
    """
    scheme, mark, rest = uri.partition("://")
    if not mark or not _SCHEME.fullmatch(scheme):
        scheme, mark, rest = "", "", uri
    before, at, host = rest.rpartition("@")
    if at and re.search(r"[/?#]", before):
        return scheme + mark + HIDDEN
    path = _QUERY.split(host, maxsplit=1)[0]
    plain, has_value, _ = path.partition("=")
    return scheme + mark + (plain.rpartition("/")[0] if has_value else path)


def masked(text: str, *addresses: str) -> str:
    """Return a text without the credentials and queries of addresses, however it has them.

    >>> masked("tcp://ann:1234 refused, opening rtsp://ann:1234/5678@h failed", "rtsp://ann:1234/5678@h")
    'tcp://ann:*** refused, opening rtsp://*** failed'
    """
    secrets = set[str]()
    for address in addresses:
        text = text.replace(address, shown(address))
        secrets |= _secrets(address)
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def _secrets(address: str) -> set[str]:
    """Return what is secret in an address, whole and in the pieces that programs take it apart in."""
    rest = address.partition("://")[2]
    login, _, behind = rest.rpartition("@")
    password = login.partition(":")[2]
    query = _QUERY.split(behind, maxsplit=1)[1:]
    values = [value for part in query for _, is_value, value in [part.partition("=")] if is_value]
    forms = {
        form for text in (password, *values) for form in (text, unquote(text), quote(unquote(text), safe=""))
    }
    pieces = {piece for form in forms for piece in _ENDS.split(form)}
    return {secret for secret in forms | pieces if len(secret) >= LEAST_SECRET}
