"""Where readers connect, and what they say there."""

import socket
import ssl
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from .errors import UsageError

CONNECT_SECONDS = 20.0
Address = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]


class Place(NamedTuple):
    """A URL taken apart: where it leads, and whether by TLS."""

    parts: SplitResult
    host: str
    port: int
    tls: bool

    @property
    def target(self) -> str:
        """What a request asks for: path and query."""
        return (self.parts.path or "/") + (f"?{self.parts.query}" if self.parts.query else "")


def place(url: str) -> Place:
    """Raises UsageError for what is no http or https URL."""
    try:
        parts = urlsplit(url)
        known = {"http": 80, "https": 443}.get(parts.scheme, 0)
        port = known if parts.port is None else known and parts.port
    except ValueError as fault:
        raise UsageError(f"{url}: {fault}") from None
    if not port or not parts.hostname:
        raise UsageError(f"{url!r} is not a URL", "give one such as http://127.0.0.1:3000/path")
    return Place(parts, parts.hostname, port, parts.scheme == "https")


@dataclass(frozen=True)
class Endpoint:
    """A server's address, and the request that each reader sends there.

    receive_buffer: SO_RCVBUF in bytes, 0 for the system's. tls: None for plain HTTP.
    """

    family: int
    address: Address
    request: bytes
    receive_buffer: int = 0
    tls: ssl.SSLContext | None = None
    host: str = ""


def find_endpoint(
    url: str, headers: tuple[str, ...] = (), *, receive_buffer: int = 0, insecure: bool = False
) -> Endpoint:
    """The first address of the URL's host that takes connections.

    Raises UsageError if there is none.
    """
    where = place(url)
    fault: OSError | None = None
    try:
        found = socket.getaddrinfo(where.host, where.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise UsageError(f"{url}: {error.strerror}", "is the host's name right?") from None
    for family, _, _, _, address in found:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.settimeout(CONNECT_SECONDS)
            try:
                probe.connect(address)
            except OSError as error:
                fault = error
                continue
        tls = tls_context(insecure=insecure) if where.tls else None
        asked = request(where, headers)
        return Endpoint(family, address, asked, receive_buffer, tls, where.host)
    said = (fault and fault.strerror) or "no answer"
    raise UsageError(f"nobody listens at {url} ({said.lower()})", "is the server running?")


def request(where: Place, headers: tuple[str, ...]) -> bytes:
    host = where.parts.netloc.rpartition("@")[2]
    lines = [f"GET {where.target} HTTP/1.1", f"Host: {host}", "Accept-Encoding: identity"]
    return "\r\n".join([*lines, "Connection: close", *headers, "", ""]).encode()


def tls_context(*, insecure: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
