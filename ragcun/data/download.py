"""Downloads that go on where they stopped: a ``.part`` file, HTTP ranges, and a checksum at the end."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import logging
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any, BinaryIO
from urllib.error import HTTPError

from tqdm.auto import tqdm

from ragcun.data.disk import full_disk_named, require_space
from ragcun.data.web import may_pass, open_url, reason, require_safe_url
from ragcun.errors import InputError
from ragcun.io import ROOM, write_json

logger = logging.getLogger(__name__)

BLOCK = 1 << 18


@dataclass(frozen=True)
class Patience:
    """How long a download waits for an answer, and how often it starts again without having got a byte further.

    Attributes:
        timeout: seconds without a byte.
        retries: new attempts.
        backoff: seconds before the first of them, doubled for each next one.
    """

    timeout: float = 60.0
    retries: int = 4
    backoff: float = 1.0


PATIENT = Patience()


def download(url: str, part: Path, md5: str, patience: Patience = PATIENT) -> None:
    """Bring what lies at `url` into the file `part`; what an earlier attempt left there is gone on with.

    The server is asked for the rest only if its file is still the one that the beginning is of (``If-Range`` with
    its entity tag or date, RFC 9110 §13.1.5); a server without ranges starts again at byte 0. ``<part>.json`` keeps
    the address and that mark. MD5 tells accidents, not malice: against that there is the transport.

    Raises:
        InputError: there is no such file, the server cannot be reached or is gone half-way (`part` stays), the disk is
            full (`part` stays), or the checksum is another one (`part` is deleted).
    """
    require_safe_url(url)
    part.parent.mkdir(parents=True, exist_ok=True)
    failures = 0
    while True:
        before = _size(part)
        try:
            _receive(url, part, patience.timeout)
            break
        except (OSError, http.client.HTTPException) as error:
            failures = 1 if _size(part) > before else failures + 1
            if failures > patience.retries or not may_pass(error):
                raise InputError(_failure(url, part, error)) from error
        logger.info("%s: the connection was lost, trying again", url)
        time.sleep(patience.backoff * 2 ** (failures - 1))
    try:
        require_md5(part, md5)
    except InputError as error:
        _forget(part)
        raise InputError(f"{url}: {error}, and what came was deleted; try again, or name another --mirror") from error


def require_md5(path: Path, md5: str) -> None:
    """Check a file's MD5.

    Raises:
        InputError: it is another one; both are named.
    """
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != md5:
        raise InputError(f"{path.name} has the MD5 {digest.hexdigest()} where {md5} is expected")


def _receive(url: str, part: Path, timeout: float) -> None:
    """Append what is missing of `part`, or write it anew.

    Raises:
        OSError, HTTPException: the connection failed, or ended before the file did.
        InputError: the disk is full.
    """
    kept = _kept(url, part)
    have = _size(part) if kept else 0
    if kept and have == kept["total"]:
        return
    asked = {"Range": f"bytes={have}-", "If-Range": kept["mark"]} if have else {}
    with _opened(url, part, asked, timeout) as response, full_disk_named(part, ROOM):
        if not (have and _starts_at(response, have)):
            _forget(part)
            have = 0
        length = response.headers.get("Content-Length")
        total = None if length is None else have + int(length)
        write_json(_note(part), {"url": url, "mark": _mark(response.headers), "total": total})
        require_space(part.parent, (total or 0) - have, url)
        bar = tqdm(total=total, initial=have, desc=part.stem, unit="B", unit_scale=True, delay=2)
        with part.open("ab") as file, bar:
            _copy(response, file, bar)
    if total is not None and _size(part) != total:
        raise ConnectionError(f"the server stopped after {_size(part):,} of {total:,} bytes")


@contextlib.contextmanager
def _opened(url: str, part: Path, headers: Mapping[str, str], timeout: float) -> Iterator[Any]:
    """Open `url`; where the server refuses the range asked for, what is there of `part` is of no use and goes."""
    try:
        response = open_url(url, headers, timeout)
    except HTTPError as error:
        if error.code == 416:
            _forget(part)
        raise
    with response:
        yield response


def _copy(response: Any, file: BinaryIO, bar: Any) -> None:
    while block := response.read(BLOCK):
        file.write(block)
        bar.update(len(block))


def _kept(url: str, part: Path) -> Mapping[str, Any]:
    """Return what is known of a part that can be gone on with: it is of this address and has a mark; else nothing."""
    try:
        note = json.loads(_note(part).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    same = isinstance(note, dict) and note.get("url") == url and note.get("mark") and _size(part)
    return note if same and "total" in note else {}


def _failure(url: str, part: Path, error: Exception) -> str:
    if isinstance(error, HTTPError):
        return f"{url}: the server answers {reason(error)}; check the name, or name another --mirror"
    if _size(part):
        return (
            f"{url}: the connection was lost after {_size(part):,} bytes ({reason(error)}), which are kept in {part}; "
            "give the same command again to go on from there"
        )
    return f"{url} cannot be reached ({reason(error)}); check the connection, or name another --mirror"


def _starts_at(response: Any, offset: int) -> bool:
    return response.status == 206 and bool(re.match(rf"bytes {offset}-", response.headers.get("Content-Range", "")))


def _mark(headers: Message) -> str | None:
    """Return what tells a file's version apart; a weak tag does not, in a range (RFC 9110 §13.1.5)."""
    tag: str | None = headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
