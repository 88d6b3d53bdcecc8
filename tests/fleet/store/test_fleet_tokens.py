"""Tokens and claims: only as long as they live, only as often as they may."""

import pytest

from edgekit.core.errors import EnrollError, UsageError
from edgekit_fleet.store.database import Database
from edgekit_fleet.store.tokens import ROLES, Tokens


@pytest.fixture
def database():
    found = Database(":memory:")
    yield found
    found.close()


@pytest.fixture
def tokens(database):
    return Tokens(database)


@pytest.mark.parametrize(
    ("role", "included"),
    [
        ("viewer", {"viewer"}),
        ("operator", {"viewer", "operator"}),
        ("publisher", {"viewer", "publisher"}),
        ("admin", set(ROLES)),
    ],
)
def test_publishing_and_operating_are_separate_rights(tokens, role, included):
    token = tokens.check(tokens.create(role, 0), 1)
    assert {one for one in ROLES if token.may(one)} == included


def test_a_token_ends_when_it_expires_or_is_revoked(tokens):
    text = tokens.create("viewer", 0, expires_ms=10)
    assert tokens.check(text, 9)
    assert tokens.check(text, 10) is None
    text = tokens.create("viewer", 0)
    assert tokens.revoke(tokens.check(text, 1).id)
    assert tokens.check(text, 1) is None


@pytest.mark.parametrize("text", ["", "ekt", "ekt..", "ekt.x.y", "nonsense", "ekt.\x00.\ud800", "ek1.a.b"])
def test_nonsense_is_no_token(tokens, text):
    assert tokens.check(text, 0) is None


def test_a_tampered_token_is_refused_and_a_claim_is_no_token(tokens):
    text = tokens.create("admin", 0)
    assert tokens.check(f"{text}x", 1) is None
    assert tokens.check(tokens.create_claim(0, 10).replace("ek1.", "ekt."), 1) is None


def test_secrets_are_not_in_the_database(tmp_path):
    database = Database(tmp_path / "a.sqlite")
    tokens = Tokens(database)
    secrets = [tokens.create("admin", 0), tokens.create_claim(0, 10)]
    database.close()
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for text in secrets:
        assert text.split(".")[1].encode() in stored
        assert text.split(".")[2].encode() not in stored


def test_a_claim_enrols_as_many_keys_as_it_says(tokens):
    text = tokens.create_claim(0, 10, uses=2)
    for key in ("k1", "k2"):
        claim, known = tokens.claimed_by(text, key, 1)
        assert known is None
        tokens.use_claim(claim, key, f"device-{key}", 1)
    with pytest.raises(EnrollError, match="used up: 2 of 2"):
        tokens.claimed_by(text, "k3", 1)
    assert tokens.claims()[0].uses == 2


def test_a_key_that_enrolled_may_ask_again_even_when_the_claim_is_over(tokens):
    text = tokens.create_claim(0, 10)
    claim, _ = tokens.claimed_by(text, "k", 1)
    tokens.use_claim(claim, "k", "device", 1)
    assert tokens.claimed_by(text, "k", 99) == (claim, "device")


def test_a_claim_that_is_expired_revoked_or_wrong_is_refused(tokens):
    text = tokens.create_claim(0, 10, ca_sha256="f" * 64)
    assert text.endswith("." + "f" * 64)
    with pytest.raises(EnrollError, match="expired"):
        tokens.claimed_by(text, "k", 10)
    for wrong in ("", "ek1", text.replace("ek1", "ek2"), f"ek1.{text.split('.')[1]}.wrong"):
        with pytest.raises(EnrollError, match="not one of this fleet"):
            tokens.claimed_by(wrong, "k", 1)
    tokens.revoke(text.split(".")[1])
    with pytest.raises(EnrollError, match="revoked"):
        tokens.claimed_by(text, "k", 1)


def test_impossible_wishes_are_refused(tokens):
    with pytest.raises(UsageError, match="role 'king'"):
        tokens.create("king", 0)
    with pytest.raises(UsageError, match="uses 0"):
        tokens.create_claim(0, 10, uses=0)
    with pytest.raises(UsageError, match="expired"):
        tokens.create_claim(10, 10)
