"""A hub on 127.0.0.1, whose repositories are folders, and files as its data sets have them."""

import contextlib
import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants, file_download, hf_api, utils

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class StandIn(BaseHTTPRequestHandler):
    """Serves `repositories`, folders by models/… or datasets/owner/name, but not files named in `forbidden`."""

    protocol_version = "HTTP/1.1"
    repositories: dict[str, Path]
    forbidden: set[str]

    def do_GET(self) -> None:
        path, _, query = unquote(self.path).partition("?")
        for name, folder in self.repositories.items():
            api, resolve = f"/api/{name}", f"/{name.removeprefix('models/')}/resolve/"
            files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
            if path in (api, *(f"{api}/revision/{revision}" for revision in ("main", COMMIT))):
                siblings = [{"rfilename": file.relative_to(folder).as_posix()} for file in files]
                return self.send_json({"id": name.partition("/")[2], "sha": COMMIT, "siblings": siblings})
            if path.startswith(f"{api}/tree/"):
                under = folder / path.removeprefix(f"{api}/tree/").partition("/")[2]
                there = under.rglob("*") if "recursive=true" in query.lower() else under.glob("*")
                found = [entry(file, folder) for file in there]
                return self.send_json(found) if found else self.send(404, error="EntryNotFound")
            if path.startswith(resolve):
                file = folder / path.removeprefix(resolve).partition("/")[2]
                return self.send_file(file) if file in files else self.send(404, error="EntryNotFound")
        return self.send(404, b"{}", error="RepoNotFound")

    do_HEAD = do_GET  # noqa: N815

    def send_file(self, file: Path) -> None:
        content, part = file.read_bytes(), self.headers.get("Range")
        if file.name in self.forbidden and self.command == "GET":
            return self.send(403)
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "Accept-Ranges": "bytes"}
        if part is None:
            return self.send(200, content, **headers)
        first, last = (int(end) for end in part.removeprefix("bytes=").split("-"))
        shown = content[first : last + 1]
        span = f"bytes {first}-{first + len(shown) - 1}/{len(content)}"
        return self.send(206, shown, **headers, **{"Content-Range": span})

    def send_json(self, value: object) -> None:
        self.send(200, json.dumps(value).encode(), **{"Content-Type": "application/json"})

    def send(self, status: int, content: bytes = b"", error: str | None = None, **headers: str) -> None:
        self.send_response(status)
        headers |= {"Content-Length": str(len(content)), "X-Repo-Commit": COMMIT}
        for name, value in (headers | ({"X-Error-Code": error} if error else {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


def entry(file: Path, folder: Path) -> dict[str, object]:
    """Describe a file or folder as the hub does."""
    name = file.relative_to(folder).as_posix()
    kind, size = ("directory", 0) if file.is_dir() else ("file", file.stat().st_size)
    return {"type": kind, "path": name, "size": size, "oid": hashlib.sha1(name.encode()).hexdigest()}


@contextlib.contextmanager
def listening(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    """Answer requests by a handler, and give the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def forget_sessions() -> None:
    """Let an older client, which is offline or not for good as it began, begin again."""
    getattr(utils, "reset_sessions", bool)()


@contextlib.contextmanager
def serving(repositories: dict[str, Path]) -> Iterator[tuple[str, type[StandIn]]]:
    """Serve repositories, and give the address and the handler, whose `forbidden` may change."""
    forget_sessions()
    handler = type("Handler", (StandIn,), {"repositories": repositories, "forbidden": set()})
    with listening(handler) as address:
        yield address, handler


def point_at(patch: pytest.MonkeyPatch, address: str) -> None:
    """Let the hub's clients ask a server."""
    patch.setattr(constants, "ENDPOINT", address)
    for module in (constants, file_download):  # older versions of the second have a name of their own for it
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    patch.setattr(hf_api.api, "endpoint", address)
    patch.setattr(datasets.config, "HF_ENDPOINT", address)


def write_split(folder: Path, rows: Sequence[dict[str, Any]], n_files: int = 1, split: str = "train") -> Path:
    """Write rows into parquet files named as the hub names them, in small row groups; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    schema = pa.Table.from_pylist(rows).schema
    for place in range(n_files):
        part = rows[len(rows) * place // n_files : len(rows) * (place + 1) // n_files]
        path = folder / f"{split}-{place:05d}-of-{n_files:05d}.parquet"
        pq.write_table(pa.Table.from_pylist(part, schema), path, row_group_size=4)
    return folder
