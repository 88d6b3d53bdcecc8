"""Routes for API tokens and enrolment claims."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel, Field

from edgekit_fleet.app.services import Parts
from edgekit_fleet.store.clock import unix_ms
from edgekit_fleet.store.tokens import Claim, Token
from edgekit_fleet.web.auth import Admin, ByAdmin

HOUR_MS = 3600 * 1000
MAX_HOURS = 24 * 366

router = APIRouter(tags=["access"])


class NewToken(BaseModel):
    """An API token to create; without ``expires_h`` it is valid until it is revoked."""

    role: Literal["viewer", "operator", "publisher", "admin"]
    label: str = Field("", max_length=200)
    expires_h: float | None = Field(None, gt=0, le=MAX_HOURS)


class NewClaim(BaseModel):
    """A claim to create: how many devices it enrols, and for how long."""

    uses: int = Field(1, ge=1, le=100_000)
    label: str = Field("", max_length=200)
    expires_h: float = Field(24, gt=0, le=MAX_HOURS)
    device: str = Field("", max_length=64, description="Enrol one machine in the place of this device")


class Made(BaseModel):
    """A token's text, which is shown only once."""

    token: str


@router.get("/tokens", dependencies=[Admin])
def tokens(parts: Parts) -> list[Token]:
    """List API tokens, without their secrets."""
    return parts.tokens.all()


@router.post("/tokens", status_code=201)
def create_token(parts: Parts, by: ByAdmin, new: NewToken) -> Made:
    """Create an API token."""
    now_ms = unix_ms()
    expires_ms = None if new.expires_h is None else now_ms + int(new.expires_h * HOUR_MS)
    with parts.database.transaction():
        text = parts.tokens.create(new.role, now_ms, label=new.label, expires_ms=expires_ms)
        about = {"role": new.role, "label": new.label, "expires_ms": expires_ms}
        parts.audit.record(by, "token.create", text.split(".")[1], after=about)
    return Made(token=text)


@router.get("/claims", dependencies=[Admin])
def claims(parts: Parts) -> list[Claim]:
    """List enrolment claims, without their secrets."""
    return parts.tokens.claims()


@router.post("/claims", status_code=201)
def create_claim(parts: Parts, by: ByAdmin, new: NewClaim) -> Made:
    """Create an enrolment claim; its text pins the fleet's CA if the API speaks TLS."""
    now_ms = unix_ms()
    pin = parts.identity.sha256 if parts.settings.url.startswith("https") else ""
    expires_ms = now_ms + int(new.expires_h * HOUR_MS)
    with parts.database.transaction():
        text = parts.tokens.create_claim(
            now_ms, expires_ms, uses=new.uses, label=new.label, ca_sha256=pin, device=new.device
        )
        about = {"uses": new.uses, "label": new.label, "expires_ms": expires_ms, "device": new.device}
        parts.audit.record(by, "claim.create", text.split(".")[1], after=about)
    return Made(token=text)


@router.delete("/tokens/{number}", status_code=204)
def revoke_token(parts: Parts, by: ByAdmin, number: str) -> None:
    """Revoke a token or a claim at once."""
    with parts.database.transaction():
        if not parts.tokens.revoke(number):
            raise HTTPException(404, "There is no such token")
        parts.audit.record(by, "token.revoke", number, after={"revoked": True})
