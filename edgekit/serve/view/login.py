"""Who may see the page: whoever has opened the link with the token, or has typed it in."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

_YEAR_S = 31_536_000


class Login:
    """Compares tokens in constant time, and gives a cookie for one that is right.

    The cookie holds a keyed hash, since a browser sends it to every port of a host. So every process that
    has the token knows it, and it is void once the token is replaced.

    Args:
        token: At least 16 characters.
        is_tls: Whether the cookie is for encrypted connections alone.
    """

    def __init__(self, token: str, *, is_tls: bool) -> None:
        self._token, self._is_tls = token.encode(), is_tls
        self._pass = hmac.new(self._token, b"edgekit page", hashlib.sha256).hexdigest()

    def is_right(self, given: str) -> bool:
        """Return whether a token is the right one."""
        return hmac.compare_digest(given.strip().encode(), self._token)

    def in_query(self, query: bytes) -> str | None:
        """Return the token that the link has, right or wrong; None without one."""
        return parse_qs(query.decode("latin-1")).get("token", [None])[0]

    def admits(self, headers: Mapping[bytes, bytes]) -> bool:
        """Return whether a request has the cookie, or the token as its bearer."""
        scheme, _, given = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        if scheme.lower() == "bearer" and self.is_right(given):
            return True
        try:
            cookies = SimpleCookie(headers.get(b"cookie", b"").decode("latin-1"))
        except CookieError:
            return False
        held = cookies.get(_cookie_name(headers))
        return held is not None and hmac.compare_digest(held.value.encode(), self._pass.encode())

    def cookie(self, headers: Mapping[bytes, bytes]) -> tuple[bytes, bytes]:
        """Return the header that keeps a visitor signed in.

        ``Lax``, and not ``Strict``: the link is opened from a mail or a camera's application too. Requests
        that change anything must come from this page, see ``is_own``.
        """
        rest = "; Path=/; HttpOnly; SameSite=Lax" + ("; Secure" if self._is_tls else "")
        text = f"{_cookie_name(headers)}={self._pass}; Max-Age={_YEAR_S}{rest}"
        return b"set-cookie", text.encode()


def is_own(headers: Mapping[bytes, bytes]) -> bool:
    """Return whether a page of this server sent a request; a program sends no origin.

    Source: OWASP, "Cross-Site Request Forgery Prevention": browsers name the origin of every post.
    """
    origin = headers.get(b"origin", b"").decode("latin-1")
    host = headers.get(b"host", b"").decode("latin-1").lower()
    return not origin or urlsplit(origin).netloc.lower() == host


def _cookie_name(headers: Mapping[bytes, bytes]) -> str:
    """Return the cookie's name, by the port: each server of a host has one of its own."""
    port = headers.get(b"host", b"").decode("latin-1").rpartition(":")[2]
    return f"edgekit-page-{port}" if port.isdigit() else "edgekit-page"
