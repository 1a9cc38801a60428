"""Pictures and sounds from public web addresses, where a server was told to allow it.

The address that a name stands for is looked up once, refused where it is not public, and then connected to as it is:
neither a redirect nor a name that changes its mind leads into the server's own network.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
from collections.abc import Callable
from urllib.parse import SplitResult, urljoin, urlsplit

from ..inputs.sources import MIB
from .errors import ApiError

TIMEOUT_S = 10.0
MAX_REDIRECTS = 3
REDIRECTS = (301, 302, 303, 307, 308)

Lookup = Callable[[str, int], list[str]]
"""A host's name and port to its addresses."""


def look_up(host: str, port: int) -> list[str]:
    """Addresses of a name. Raises ApiError when it has none."""
    try:
        return sorted({str(item[4][0]) for item in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)})
    except OSError as cause:
        raise ApiError(f"the address {host!r} cannot be found: {cause}", code="invalid_url") from cause


def fetch(url: str, max_bytes: int, *, lookup: Lookup = look_up) -> bytes:
    """All bytes at an http(s) address. Raises ApiError for addresses that are not public, and for what is too large."""
    for _ in range(MAX_REDIRECTS + 1):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ApiError(f"only http and https addresses are fetched, not {url[:80]!r}", code="invalid_url")
        status, headers, body = _get(parts, public_address(parts, lookup), max_bytes)
        if status not in REDIRECTS:
            if status != 200:
                raise ApiError(f"{parts.hostname} answered {status} for {url[:200]!r}; check the address",
                               code="invalid_url")
            return body
        url = urljoin(url, headers.get("location", ""))
    raise ApiError(f"more than {MAX_REDIRECTS} redirects at {url[:200]!r}", code="invalid_url")


def public_address(parts: SplitResult, lookup: Lookup = look_up) -> str:
    """An address of the host, when all that it has are public. Raises ApiError."""
    host = parts.hostname or ""
    found = lookup(host, _port(parts))
    if not found or not all(ipaddress.ip_address(item.split("%")[0]).is_global for item in found):
        raise ApiError(f"{host!r} is no public address; this server fetches nothing from private networks",
                       status=403, code="url_not_allowed")
    return found[0]


def _port(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)


def _get(parts: SplitResult, address: str, max_bytes: int) -> tuple[int, dict[str, str], bytes]:
    """One request to one address. The name still says which certificate is asked for."""
    connection = http.client.HTTPConnection(address, _port(parts), timeout=TIMEOUT_S)
    try:
        connection.connect()
        if parts.scheme == "https":
            context = ssl.create_default_context()
            connection.sock = context.wrap_socket(connection.sock, server_hostname=parts.hostname)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", path, headers={"Host": parts.netloc.rpartition("@")[2], "User-Agent": "minicpm-o"})
        reply = connection.getresponse()
        body = reply.read(max_bytes + 1)
        headers = {name.lower(): value for name, value in reply.getheaders()}
        status = reply.status
    except (OSError, http.client.HTTPException) as cause:
        raise ApiError(f"{parts.hostname} could not be read: {cause}", code="invalid_url") from cause
    finally:
        connection.close()
    if len(body) > max_bytes:
        raise ApiError(f"what lies at {parts.hostname} is larger than {max_bytes / MIB:.0f} MB", status=413,
                       code="media_too_large")
    return status, headers, body
