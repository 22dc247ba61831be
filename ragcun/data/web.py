"""What may be opened of the web and how: safe transports alone, by the standard library, which needs no dependency."""

from __future__ import annotations

import ssl
import urllib.request
from collections.abc import Mapping
from email.message import Message
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from ragcun.errors import InputError
from ragcun.secrets import masked

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PASSING = (408, 416, 425, 429, 500, 502, 503, 504)
"""HTTP states that another attempt may not meet: the server's bad moments, and a range that it does not have."""


def require_safe_url(url: str) -> str:
    """Return `url`, whose transport must keep others from changing what comes: https, or a server or file of this host.

    >>> require_safe_url("https://example.org/sets")
    'https://example.org/sets'

    Raises:
        InputError: it is anything else.
    """
    try:
        parts = urlsplit(url)
        host, is_anonymous = parts.hostname, parts.username is None
    except ValueError as error:
        raise InputError(f"{masked(url)!r} is no address ({error}); give https://HOST/FOLDER") from error
    is_local = parts.scheme == "http" and host in LOOPBACK
    is_file = parts.scheme == "file" and not parts.netloc and parts.path.startswith("/")
    if is_anonymous and ((parts.scheme == "https" and host) or is_local or is_file):
        return url
    raise InputError(
        f"{masked(url)!r} is not safe to download from; give https://HOST/FOLDER, or file:///FOLDER on this machine"
    )


def open_url(url: str, headers: Mapping[str, str], timeout: float) -> Any:
    """Open an address for reading; redirections lead to safe ones alone.

    https goes through the proxy that the environment names, this machine's own servers through none.

    Raises:
        InputError: it, or where it leads, is not safe.
        OSError, HTTPException: it cannot be opened.
    """
    request = urllib.request.Request(require_safe_url(url), headers={"User-Agent": "ragcun", **headers})
    proxies = {scheme: proxy for scheme, proxy in urllib.request.getproxies().items() if scheme == "https"}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies), _SafeRedirections())
    return opener.open(request, timeout=timeout)


def may_pass(error: Exception) -> bool:
    """Say whether another attempt may go better; not where a file is missing or a certificate is wrong."""
    if isinstance(error, HTTPError):
        return error.code in PASSING
    cause = error.reason if isinstance(error, URLError) else error
    return not isinstance(cause, (ssl.SSLCertVerificationError, FileNotFoundError, PermissionError, IsADirectoryError))


def reason(error: Exception) -> str:
    """Say in a few words what went wrong."""
    if isinstance(error, HTTPError):
        return f"{error.code} {error.reason}"
    cause = error.reason if isinstance(error, URLError) else error
    return getattr(cause, "strerror", None) or str(cause) or type(cause).__name__


class _SafeRedirections(urllib.request.HTTPRedirectHandler):
    """Follow a redirection only where `require_safe_url` lets it, and never from the web to this machine."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        before, after = urlsplit(req.full_url), urlsplit(require_safe_url(newurl))
        if before.scheme == "https" and after.scheme != "https":
            raise InputError(
                f"{masked(req.full_url)} leads to {masked(newurl)}, which is not safe; name another --mirror"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]
