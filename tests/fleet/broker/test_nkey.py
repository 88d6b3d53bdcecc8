"""Tokens as NATS writes them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.core.errors import SignatureError
from edgekit_fleet.broker.nkey import AccountKey, decode, encode, read_claims


def test_a_known_key_is_written_as_nats_writes_it():
    """Source: the zero key, CRC-16/XMODEM of 33 zero bytes is 0."""
    assert encode(0, bytes(32)) == "A" * 56


@given(st.binary(min_size=32, max_size=32), st.integers(0, 54), st.sampled_from("ABCXYZ234567"))
def test_a_mistyped_key_is_noticed(key, position, letter):
    text = encode(0, key)
    assert decode(text) == key
    changed = text[:position] + letter + text[position + 1 :]
    if changed != text:
        with pytest.raises(ValueError, match="not a public key"):
            decode(changed)


def test_a_token_is_read_by_whom_it_names_and_no_longer_when_changed():
    key = AccountKey()
    token = key.sign({"sub": "someone", "nats": {"a": 1}}, 5)
    claims = read_claims(token)
    assert (claims["iss"], claims["sub"], claims["iat"]) == (key.public, "someone", 5)
    header, _, signature = token.split(".")
    other = AccountKey().sign({"sub": "someone else"}, 5).split(".")[1]
    with pytest.raises(SignatureError):
        read_claims(f"{header}.{other}.{signature}")


@given(st.text(max_size=200))
def test_nonsense_is_refused(text):
    with pytest.raises(SignatureError):
        read_claims(text)
