"""Sign-in at an OpenID provider: authorization code with PKCE, state and nonce (OpenID Connect Core 1.0)."""

import asyncio
import logging
import re
import secrets
from http import HTTPStatus
from typing import Any

import httpx
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.starlette_client import OAuth
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import Response
from joserfc.errors import JoseError
from starlette.middleware.sessions import SessionMiddleware

from thinwire.receiver.access.accounts import Account, Role
from thinwire.receiver.access.audit_message import Act, AuditOutcome
from thinwire.receiver.web.context import Provider, WebContext
from thinwire.receiver.web.guard import CurrentContext, address_of
from thinwire.receiver.web.pages import page
from thinwire.receiver.web.sign_in import enter
from thinwire.shared.errors import BadInput

log = logging.getLogger(__name__)

router = APIRouter(prefix="/oidc")

_MINUTES = 10
"""Limit of a sign-in at the provider."""


def add_provider(app: FastAPI, context: WebContext, provider: Provider) -> None:
    """Add sign-in at a provider. The state of a sign-in is in a cookie that this process signs."""
    client = OAuth()
    client.register(
        "provider",
        client_id=provider.client,
        client_secret=provider.secret,
        server_metadata_url=f"{provider.issuer.rstrip('/')}/.well-known/openid-configuration",
        client_kwargs={"scope": "openid profile", "code_challenge_method": "S256"},
    )
    app.state.provider = client.provider
    # Lax: the redirect from the provider is a navigation from another site.
    app.add_middleware(
        SessionMiddleware,
        secret_key=secrets.token_hex(32),
        session_cookie="__Host-thinwire-oidc" if context.secure else "thinwire-oidc",
        max_age=60 * _MINUTES,
        same_site="lax",
        https_only=context.secure,
    )
    app.include_router(router)


@router.get("/start")
async def start(request: Request, context: CurrentContext) -> Response:
    origin = context.origin or str(request.base_url).rstrip("/")
    try:
        answer: Response = await request.app.state.provider.authorize_redirect(request, f"{origin}/oidc/callback")
    except (httpx.HTTPError, AuthlibBaseError, ValueError) as error:
        log.warning("the OpenID provider does not answer: %s", type(error).__name__)
        return _refused(request, "The hospital's sign-in does not answer. Try again, or use a local account.")
    return answer


@router.get("/callback")
async def callback(request: Request, context: CurrentContext) -> Response:
    client, provider, address = request.app.state.provider, context.provider, address_of(request)
    assert provider is not None
    try:
        token = await client.authorize_access_token(request)
        issuer = (await client.load_server_metadata()).get("issuer")
    except (httpx.HTTPError, AuthlibBaseError, JoseError, ValueError, KeyError) as error:
        # Values of the request are not shown: they are from outside.
        log.warning("a sign-in at the OpenID provider does not hold: %s", type(error).__name__)
        return await _failed(request, context, address, "The sign-in does not hold. Begin it again.")
    finally:
        request.session.clear()
    claims: dict[str, Any] = dict(token.get("userinfo") or {})
    role = role_of(provider, claims)
    if issuer != provider.issuer or not claims.get("sub") or role is None:
        return await _failed(request, context, address, "Your account there has no right to enter the reading room.")
    try:
        account = await asyncio.to_thread(_account, context, provider, claims, role, address)
    except BadInput as error:
        return await _failed(request, context, address, f"{error}. {error.remedy}")
    if account is None:
        return await _failed(request, context, address, "Your account here was closed.")
    inside = await asyncio.to_thread(enter, context, account.name, address)
    # A browser does not send the new cookie on a redirect that began at the provider, but does from our own page.
    answer = page(request, "redirect.html")
    answer.headers["set-cookie"] = inside.headers["set-cookie"]
    return answer


def role_of(provider: Provider, claims: dict[str, Any]) -> Role | None:
    """The role by the claim `groups`; None if no group has a role."""
    claimed = claims.get("groups")
    groups = claimed if isinstance(claimed, list) else []
    if provider.administrators is not None and provider.administrators in groups:
        return Role.ADMINISTRATOR
    return Role.READER if provider.readers is not None and provider.readers in groups else None


def _account(
    context: WebContext, provider: Provider, claims: dict[str, Any], role: Role, address: str
) -> Account | None:
    subject = str(claims["sub"])
    name = re.sub(r"[^a-z0-9._-]", "-", str(claims.get("preferred_username") or subject).lower()).lstrip("._-")[:64]
    full_name = str(claims.get("name") or claims.get("preferred_username") or subject)[:128]
    message = context.message(Act.ACCOUNT_LINKED, name, address, account=name, detail=f"by OpenID, as {role}")
    return context.accounts.of_subject(provider.issuer, subject, name, full_name, role, context.also(message))


async def _failed(request: Request, context: WebContext, address: str, words: str) -> Response:
    message = context.message(Act.SIGNED_IN, "unknown", address, outcome=AuditOutcome.REFUSED, detail="by OpenID")
    await asyncio.to_thread(context.refusals.record, message)
    return _refused(request, words)


def _refused(request: Request, words: str) -> Response:
    return page(request, "sign_in.html", HTTPStatus.UNAUTHORIZED, error=words, name="", provider=True)
