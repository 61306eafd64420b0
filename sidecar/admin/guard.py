"""Who may talk to the admin port: a check of `Host`, of the page a browser comes from, and of the token.

Owns three refusals. A web page must not reach a port on the operator's loopback: neither directly (cross-site)
nor under a name of its own that resolves to loopback (DNS rebinding). It never looks at what is asked for,
except that health needs no token.
"""

import hmac
import re
from ipaddress import ip_address

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from sidecar.settings_values import Address

_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9A-Za-z._-]+))(?::[0-9]{1,5})?")
"""A host and a port, and nothing else: no user before it, nothing that two readers could read in two ways."""


def host_allowed(host: str, listen: Address, *, guarded: bool) -> bool:
    """Whether a `Host` value can come from somebody who means this port.

    Loopback names and addresses, and the host that is listened on. When that is a wildcard, every address is as good as
    another, and so is every name if the port is guarded by a token, which a rebound page cannot know.
    """
    found = _HOST.fullmatch(host)
    if found is None:
        return False
    name = (found[1] or found[2]).lower()
    if name in {"localhost", listen.host.lower()}:
        return True
    wildcard = listen.host in {"0.0.0.0", "::"}
    try:
        return ip_address(name).is_loopback or wildcard
    except ValueError:
        return name.endswith(".localhost") or (wildcard and guarded)


def same_site(request: web.Request) -> bool:
    """False for what a browser sends on behalf of another site's page. Programs send neither field."""
    own = f"{request.scheme}://{request.host}"
    sites = request.headers.getall("Sec-Fetch-Site", [])
    origins = request.headers.getall("Origin", [])
    return {*sites} <= {"none", "same-origin"} and {*origins} <= {own}


def token_given(request: web.Request, token: str) -> bool:
    """Whether `Authorization: Bearer` carries the token; compared in constant time."""
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    # aiohttp gives bytes that are not UTF-8 as lone surrogates.
    said = given.strip().encode(errors="surrogateescape")
    return scheme.lower() == "bearer" and hmac.compare_digest(said, token.encode())


def checked(listen: Address, token: str | None, open_paths: frozenset[str]) -> Middleware:
    """The middleware that refuses: 403 for `Host` and cross-site, 401 without the token (`open_paths` excepted)."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        hosts = request.headers.getall("Host", [])
        if len(hosts) > 1 or not all(host_allowed(host, listen, guarded=token is not None) for host in hosts):
            raise web.HTTPForbidden(text="this Host is not served here; use the address that is listened on")
        if not same_site(request):
            raise web.HTTPForbidden(text="requests from other sites' pages are refused")
        if token is not None and request.path not in open_paths and not token_given(request, token):
            raise web.HTTPUnauthorized(
                text="a token is needed: Authorization: Bearer <SIDECAR_ADMIN_TOKEN>",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return await handler(request)

    return check
