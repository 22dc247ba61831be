"""Downloads from a server of our own that loses connections, changes files and ignores ranges, and what is unpacked."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import random
import re
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ragcun.data.archives import HOST, fetch_set, mirror_url, unpack
from ragcun.data.beir import find_collections, load_collection
from ragcun.data.beir_sets import FORUMS, BeirSet
from ragcun.data.download import Patience, download
from ragcun.data.web import require_safe_url
from ragcun.errors import InputError

QUICKLY = Patience(timeout=5, retries=2, backoff=0.001)
FILES = {
    "corpus.jsonl": '{"_id": "d1", "title": "", "text": "one"}\n{"_id": "d2", "title": "", "text": "two"}\n',
    "queries.jsonl": '{"_id": "q1", "text": "one"}\n',
    "qrels/test.tsv": "query-id\tcorpus-id\tscore\nq1\td1\t1\n",
}


@dataclass
class Site:
    """A server's files, its manners, and what it was asked.

    Attributes:
        files: what it has, by path.
        tag: their ETag; none without.
        ranges: whether it heeds Range.
        cuts: after how many bytes of body it breaks off, a number for each answer in turn; None does not.
        states: HTTP states that it answers with, each answer in turn, before it behaves.
        moves: where a path has moved to.
        asked: path and Range of each request.
        hold: what it waits for before it ends an answer; None waits for nothing.
        url: where it is.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    tag: str | None = '"one"'
    ranges: bool = True
    cuts: list[int | None] = field(default_factory=list)
    states: list[int] = field(default_factory=list)
    moves: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    hold: threading.Event | None = None
    url: str = ""


def handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            site.asked.append((self.path, wanted))
            if site.states:
                self.send_error(site.states.pop(0))
            elif self.path in site.moves:
                self.send_response(302)
                self.send_header("Location", site.moves[self.path])
                self.end_headers()
            elif self.path not in site.files:
                self.send_error(404)
            else:
                self.answer(site.files[self.path], wanted)

        def answer(self, body: bytes, wanted: str | None) -> None:
            fresh = self.headers.get("If-Range") in (None, site.tag)
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and site.ranges and fresh else 0
            if start >= len(body):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            if site.tag:
                self.send_header("ETag", site.tag)
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            cut = site.cuts.pop(0) if site.cuts else None
            self.wfile.write(body[start:][:cut])
            if site.hold is not None:
                self.wfile.flush()
                site.hold.wait(30)

    return Handler


@pytest.fixture
def site() -> Iterator[Site]:
    """A server on this machine, for as long as a test runs."""
    site = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(site))
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield site
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def body() -> bytes:
    """More than two of the blocks that a download reads."""
    return random.Random(0).randbytes(600_001)


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def archive(files: dict[str, str | bytes], top: str = "toy/") -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in files.items():
            zipped.writestr(f"{top}{name}", content)
    return packed.getvalue()


def toy(content: bytes) -> BeirSet:
    return BeirSet("toy", 1, md5(content))


def names(folder: Path) -> set[str]:
    """What lies in a folder beside the lock that fetching leaves."""
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}


def test_a_file_comes_whole(site: Site, body: bytes, tmp_path: Path) -> None:
    site.files["/x.zip"] = body
    download(f"{site.url}/x.zip", tmp_path / "x.part", md5(body), QUICKLY)
    assert (tmp_path / "x.part").read_bytes() == body
    assert site.asked == [("/x.zip", None)]
    download(f"{site.url}/x.zip", tmp_path / "x.part", md5(body), QUICKLY)
    assert len(site.asked) == 1


@pytest.mark.parametrize("cut", [0, 1, 262_144, 600_000])
def test_a_lost_connection_is_gone_on_with(site: Site, body: bytes, tmp_path: Path, cut: int) -> None:
    site.files["/x.zip"], site.cuts = body, [cut, 100_000]
    download(f"{site.url}/x.zip", tmp_path / "x.part", md5(body), QUICKLY)
    assert (tmp_path / "x.part").read_bytes() == body
    assert site.asked[:2] == [("/x.zip", None), ("/x.zip", f"bytes={cut}-" if cut else None)]


def test_a_later_call_goes_on_where_an_earlier_one_gave_up(site: Site, body: bytes, tmp_path: Path) -> None:
    site.files["/x.zip"], site.cuts = body, [300_000, 0, 0, 0]
    part = tmp_path / "x.part"
    with pytest.raises(InputError, match=r"lost after 300,000 bytes .* are kept in .*x\.part; give the same command"):
        download(f"{site.url}/x.zip", part, md5(body), QUICKLY)
    assert part.read_bytes() == body[:300_000]
    assert len(site.asked) == 1 + QUICKLY.retries
    site.cuts, site.asked = [], []
    download(f"{site.url}/x.zip", part, md5(body), QUICKLY)
    assert part.read_bytes() == body
    assert site.asked == [("/x.zip", "bytes=300000-")]


def test_as_long_as_bytes_come_there_is_no_end_to_patience(site: Site, body: bytes, tmp_path: Path) -> None:
    site.files["/x.zip"], site.cuts = body, [50_000] * 11
    download(f"{site.url}/x.zip", tmp_path / "x.part", md5(body), QUICKLY)
    assert (tmp_path / "x.part").read_bytes() == body
    assert len(site.asked) == 12


@pytest.mark.parametrize("change", ["file", "ranges ignored", "no tag", "weak tag", "other address", "no note"])
def test_a_beginning_that_may_be_of_another_file_is_not_glued(
    site: Site, body: bytes, tmp_path: Path, change: str
) -> None:
    part, before = tmp_path / "x.part", body[::-1]
    site.files["/x.zip"], site.cuts = before, [200_000] + [200_000 if "tag" in change else 0] * 2
    site.tag = {"no tag": None, "weak tag": 'W/"one"'}.get(change, '"one"')
    with pytest.raises(InputError, match="200,000 bytes"):
        download(f"{site.url}/x.zip", part, md5(before), QUICKLY)
    site.files, site.cuts, site.asked = {"/x.zip": body, "/y.zip": body}, [], []
    if change == "file":
        site.tag = '"two"'
    elif change == "ranges ignored":
        site.ranges = False
    elif change == "no note":
        part.with_name("x.part.json").unlink()
    download(f"{site.url}/{'y' if change == 'other address' else 'x'}.zip", part, md5(body), QUICKLY)
    assert part.read_bytes() == body
    assert len(site.asked) == 1
    assert (site.asked[0][1] is not None) == (change in ("file", "ranges ignored"))


def test_a_range_that_the_server_lacks_starts_anew(site: Site, body: bytes, tmp_path: Path) -> None:
    """The file on the server is now shorter than what was kept."""
    site.files["/x.zip"], site.cuts = body, [200_000, 0, 0]
    with pytest.raises(InputError):
        download(f"{site.url}/x.zip", tmp_path / "x.part", md5(body), QUICKLY)
    site.files["/x.zip"], site.cuts = body[:100_000], []
    download(f"{site.url}/x.zip", tmp_path / "x.part", md5(body[:100_000]), QUICKLY)
    assert (tmp_path / "x.part").read_bytes() == body[:100_000]


def test_a_wrong_checksum_says_both_and_leaves_nothing(site: Site, body: bytes, tmp_path: Path) -> None:
    site.files["/x.zip"] = body
    with pytest.raises(InputError) as caught:
        download(f"{site.url}/x.zip", tmp_path / "x.part", md5(b"other"), QUICKLY)
    assert md5(body) in str(caught.value)
    assert md5(b"other") in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_states_that_pass_are_waited_for_and_others_are_not(site: Site, body: bytes, tmp_path: Path) -> None:
    site.files["/x.zip"], site.states = body, [503, 429]
    download(f"{site.url}/x.zip", tmp_path / "x.part", md5(body), QUICKLY)
    assert len(site.asked) == 3
    for state in (404, 403, 410):
        site.asked, site.states = [], [state]
        with pytest.raises(InputError, match=rf"x\.zip: the server answers {state} .*; check the name"):
            download(f"{site.url}/x.zip", tmp_path / "y.part", md5(body), QUICKLY)
        assert len(site.asked) == 1
    site.states = [500] * 9
    with pytest.raises(InputError, match="the server answers 500"):
        download(f"{site.url}/x.zip", tmp_path / "y.part", md5(body), QUICKLY)


def test_no_server_is_one_sentence(site: Site, tmp_path: Path) -> None:
    port = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    port.server_close()
    with pytest.raises(InputError, match=r"cannot be reached \(Connection refused\); check the connection"):
        download(f"http://127.0.0.1:{port.server_address[1]}/x.zip", tmp_path / "x.part", "", QUICKLY)
    assert not list(tmp_path.iterdir())


def test_a_server_that_says_nothing_is_given_up(body: bytes, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/x.zip"
        with pytest.raises(InputError, match=r"cannot be reached .*timed out"):
            download(url, tmp_path / "x.part", md5(body), Patience(0.05, 1, 0.001))


def test_redirections_are_followed_where_they_are_safe(site: Site, body: bytes, tmp_path: Path) -> None:
    site.files["/there.zip"] = body
    site.moves = {"/x.zip": "/there.zip", "/y.zip": "http://example.org/x.zip", "/z.zip": f"file://{tmp_path}/x"}
    download(f"{site.url}/x.zip", tmp_path / "x.part", md5(body), QUICKLY)
    assert (tmp_path / "x.part").read_bytes() == body
    with pytest.raises(InputError, match=r"http://example\.org/x\.zip' is not safe"):
        download(f"{site.url}/y.zip", tmp_path / "y.part", md5(body), QUICKLY)
    with pytest.raises(InputError, match=r"not safe|cannot be reached|server answers"):
        download(f"{site.url}/z.zip", tmp_path / "z.part", md5(body), QUICKLY)
    assert not (tmp_path / "z.part").exists()


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/sets", "ftp://example.org/sets", "/sets", "sets", "", "https://", "file://host/sets",
        "https://user:word@example.org", "http://127.0.0.1.example.org/", "http://[::1", "data:text/plain,x",
    ],
)  # fmt: skip
def test_unsafe_addresses_are_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give https://"):
        require_safe_url(url)
    with pytest.raises(InputError, match="give https://"):
        download(url, tmp_path / "x.part", "", QUICKLY)


def test_the_mirror_is_the_flag_then_the_environment_then_beirs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAGCUN_BEIR_MIRROR", raising=False)
    assert mirror_url(None) == HOST
    assert HOST.startswith("https://")
    monkeypatch.setenv("RAGCUN_BEIR_MIRROR", "https://example.org/env/")
    assert mirror_url(None) == "https://example.org/env"
    assert mirror_url("file:///flag") == "file:///flag"


def test_a_full_disk_is_one_sentence_and_what_came_is_gone_on_with(site: Site, body: bytes, tmp_path: Path) -> None:
    """A limit of 100,000 bytes to any file's size, in a process of its own, stops a write as a full disk does."""
    site.files["/x.zip"] = body
    part = tmp_path / "x.part"
    code = f"""if True:
        import resource
        from pathlib import Path
        from ragcun.data.download import download
        from ragcun.errors import InputError
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            download("{site.url}/x.zip", Path({str(part)!r}), "{md5(body)}")
        except InputError as error:
            print("sentence:", error)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"sentence: {part}: File too large; make room"), done
    kept = part.stat().st_size
    assert 0 < kept <= 100_000
    assert len(site.asked) == 1
    download(f"{site.url}/x.zip", part, md5(body), QUICKLY)
    assert part.read_bytes() == body
    assert site.asked[1] == ("/x.zip", f"bytes={kept}-")


def test_what_cannot_fit_is_not_begun(site: Site, body: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=len(body) - 1))
    site.files["/x.zip"] = body
    with pytest.raises(InputError, match=r"takes 600,001 bytes and .* has 600,000 left"):
        download(f"{site.url}/x.zip", tmp_path / "x.part", md5(body), QUICKLY)
    assert not (tmp_path / "x.part").exists()
    packed = archive({**FILES, "corpus.jsonl": "x" * 600_000})
    (tmp_path / "toy.zip").write_bytes(packed)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=600_000))
    with pytest.raises(
        InputError, match=f"takes {600_000 + sum(map(len, FILES.values())) - len(FILES['corpus.jsonl'])}|left"
    ):
        unpack(tmp_path / "toy.zip", tmp_path / "toy")
    assert not (tmp_path / "toy").exists()


@pytest.fixture
def served(site: Site, tmp_path: Path) -> Callable[[bytes], Path]:
    """Serve an archive of the set ``toy``, fetch it, and return the folder of collections."""

    def fetch(content: bytes) -> Path:
        site.files["/toy.zip"] = content
        fetch_set(toy(content), tmp_path / "data", site.url, QUICKLY)
        return tmp_path / "data"

    return fetch


def test_a_set_is_fetched_into_its_folder_and_nothing_else_stays(served: Callable[[bytes], Path], site: Site) -> None:
    data = served(archive({**FILES, "README.txt": "read me", "qrels/notes.txt": "x"}))
    assert names(data) == {"toy"}
    assert {path.relative_to(data / "toy").as_posix() for path in (data / "toy").rglob("*.*")} == set(FILES)
    collection = load_collection(data / "toy")
    assert {key: document.text for key, document in collection.documents.items()} == {"d1": "one", "d2": "two"}
    served(site.files["/toy.zip"])
    assert len(site.asked) == 1


def test_a_set_of_parts_is_fetched_with_all_of_them(site: Site, tmp_path: Path) -> None:
    files = {f"{forum}/{name}": content for forum in FORUMS for name, content in FILES.items()}
    site.files["/toy.zip"] = content = archive(files)
    fetch_set(replace(toy(content), parts=FORUMS), tmp_path, site.url, QUICKLY)
    assert names(tmp_path / "toy") == set(FORUMS)
    del files["tex/queries.jsonl"]
    site.files["/other.zip"] = content = archive(files, "other/")
    with pytest.raises(InputError, match=r"holds no other/tex/queries.jsonl"):
        fetch_set(BeirSet("other", 1, md5(content), parts=FORUMS), tmp_path, site.url, QUICKLY)
    assert not (tmp_path / "other").exists()


def test_a_whole_archive_in_the_folder_is_taken_and_left_there(site: Site, tmp_path: Path) -> None:
    content = archive(FILES)
    (tmp_path / "toy.zip").write_bytes(content[:-1])
    with pytest.raises(InputError, match=f"{md5(content[:-1])} where {md5(content)} .*; delete it"):
        fetch_set(toy(content), tmp_path, site.url, QUICKLY)
    (tmp_path / "toy.zip").write_bytes(content)
    fetch_set(toy(content), tmp_path, site.url, QUICKLY)
    assert names(tmp_path) == {"toy", "toy.zip"}
    assert not site.asked


def test_what_is_in_the_way_is_not_replaced(site: Site, tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match=r"lacks corpus.jsonl; complete it, or move it away"):
        fetch_set(toy(archive(FILES)), tmp_path, site.url, QUICKLY)
    assert (tmp_path / "toy" / "mine.txt").read_text() == "mine"


def test_what_a_killed_process_left_is_no_collection_and_goes(site: Site, tmp_path: Path) -> None:
    """A kill while unpacking leaves the temporary folder of it, and the part with its note."""
    content = archive(FILES)
    site.files["/toy.zip"] = content
    half = tmp_path / ".toy.abc.tmp"
    (half / "qrels").mkdir(parents=True)
    for name, text in FILES.items():
        (half / name).write_text(text)
    download(f"{site.url}/toy.zip", tmp_path / "toy.zip.part", md5(content), QUICKLY)
    with pytest.raises(InputError, match="no collection at all"):
        find_collections(tmp_path, ["all"])
    fetch_set(toy(content), tmp_path, site.url, QUICKLY)
    assert names(tmp_path) == {"toy"}
    assert len(site.asked) == 1


def test_a_kill_while_downloading_leaves_nothing_that_looks_whole(site: Site, body: bytes, tmp_path: Path) -> None:
    content = archive({**FILES, "corpus.jsonl": FILES["corpus.jsonl"] + body.hex()})
    site.files["/toy.zip"], site.cuts, site.hold = content, [300_000], threading.Event()
    code = f"""if True:
        from pathlib import Path
        from ragcun.data.archives import fetch_set
        from ragcun.data.beir_sets import BeirSet
        fetch_set(BeirSet("toy", 1, "{md5(content)}"), Path({str(tmp_path)!r}), "{site.url}")
    """
    part = tmp_path / "toy.zip.part"
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        end = time.monotonic() + 30
        while not (part.exists() and part.stat().st_size) and time.monotonic() < end:
            time.sleep(0.01)
        process.kill()
    site.hold.set()
    kept = part.stat().st_size
    assert 0 < kept <= 300_000
    assert names(tmp_path) == {"toy.zip.part", "toy.zip.part.json"}
    fetch_set(toy(content), tmp_path, site.url, QUICKLY)
    assert names(tmp_path) == {"toy"}
    assert site.asked[1] == ("/toy.zip", f"bytes={kept}-")


def test_two_fetches_at_once_download_once(site: Site, tmp_path: Path) -> None:
    content = site.files["/toy.zip"] = archive(FILES)
    threads = [threading.Thread(target=fetch_set, args=(toy(content), tmp_path, site.url, QUICKLY)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names(tmp_path) == {"toy"}
    assert len(site.asked) == 1


def test_a_folder_of_this_machine_is_a_mirror(tmp_path: Path) -> None:
    content = archive(FILES)
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "toy.zip").write_bytes(content)
    data = tmp_path / "data"
    fetch_set(toy(content), data, f"file://{tmp_path}/mirror", QUICKLY)
    assert names(data) == {"toy"}
    with pytest.raises(InputError, match=r"absent.zip cannot be reached"):
        fetch_set(BeirSet("absent", 1, md5(content)), data, f"file://{tmp_path}/mirror", QUICKLY)


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize("name", ["../out.txt", "toy/../../out.txt", "/tmp/out.txt", "toy\\..\\out.txt", "toy/../x"])
def test_names_that_lead_out_are_refused(served: Callable[[bytes], Path], tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="leads out of its folder; nothing was unpacked"):
        served(archive({**{f"toy/{key}": text for key, text in FILES.items()}, name: "out"}, top=""))
    assert not (tmp_path / "data" / "toy").exists()
    assert not list(tmp_path.rglob("out.txt"))
    assert not os.path.exists("/tmp/out.txt")


@pytest.mark.parametrize("name", ["toy/corpus.jsonl", "toy/qrels", "other"])
def test_links_are_refused(served: Callable[[bytes], Path], tmp_path: Path, name: str) -> None:
    packed = io.BytesIO(archive({key: text for key, text in FILES.items() if not f"toy/{key}".startswith(name)}))
    with zipfile.ZipFile(packed, "a") as zipped:
        zipped.writestr(link(name), "/etc/passwd")
    with pytest.raises(InputError, match="is a link or a device"):
        served(packed.getvalue())
    assert not (tmp_path / "data" / "toy").exists()


def test_only_the_sets_own_files_are_taken(served: Callable[[bytes], Path]) -> None:
    """Another folder, a set of another name, and a set inside the set are passed over."""
    others = {f"{top}/{name}": text for top in ("__MACOSX", "scifact", "toy/toy") for name, text in FILES.items()}
    data = served(archive({**{f"toy/{name}": text for name, text in FILES.items()}, **others}, top=""))
    assert names(data) == {"toy"}
    assert names(data / "toy") == {"corpus.jsonl", "queries.jsonl", "qrels"}


def test_an_archive_of_another_set_is_refused(served: Callable[[bytes], Path]) -> None:
    with pytest.raises(InputError, match=r"holds no toy/corpus.jsonl"):
        served(archive(FILES, "scifact/"))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_occurs_twice_is_refused(served: Callable[[bytes], Path]) -> None:
    packed = io.BytesIO(archive(FILES))
    with zipfile.ZipFile(packed, "a") as zipped:
        zipped.writestr("toy/corpus.jsonl", "other")
    with pytest.raises(InputError, match=r"holds 'toy/corpus.jsonl' twice"):
        served(packed.getvalue())


def damaged(how: str) -> bytes:
    text = "".join(random.Random(1).choices("abcdefgh", k=50_000))
    content = bytearray(archive({**FILES, "corpus.jsonl": text}))
    if how == "truncated":
        return bytes(content[: len(content) // 2])
    if how == "no archive":
        return b"<html>moved</html>"
    if how == "a flipped bit":
        content[len(content) // 3] ^= 1
        return bytes(content)
    if how == "an encrypted mark":
        for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            content[content.index(signature) + offset] |= 1
        return bytes(content)
    size = {"declares less": 49_999, "declares more": 50_001}[how].to_bytes(4, "little")
    return bytes(content).replace((50_000).to_bytes(4, "little"), size)


@pytest.mark.parametrize(
    "how", ["truncated", "no archive", "a flipped bit", "an encrypted mark", "declares less", "declares more"]
)
def test_damaged_archives_are_refused_and_leave_no_folder(
    served: Callable[[bytes], Path], tmp_path: Path, how: str
) -> None:
    """What a member grows to is bounded by what it declares: one that declares less than it holds is refused too."""
    content = damaged(how)
    with pytest.raises(InputError, match=r"is no whole zip archive|encrypted"):
        served(content)
    assert names(tmp_path / "data") == {"toy.zip.part", "toy.zip.part.json"}


def test_a_full_disk_while_unpacking_leaves_no_folder(tmp_path: Path) -> None:
    (tmp_path / "toy.zip").write_bytes(archive({**FILES, "corpus.jsonl": "x" * 300_000}))
    code = f"""if True:
        import resource
        from pathlib import Path
        from ragcun.data.archives import unpack
        from ragcun.errors import InputError
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            unpack(Path({str(tmp_path / "toy.zip")!r}), Path({str(tmp_path / "toy")!r}))
        except InputError as error:
            print("sentence:", error)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "toy was not written: File too large; make room" in done.stdout, done
    assert names(tmp_path) == {"toy.zip"}


def test_a_set_without_an_archive_is_no_download(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no archive; ask for it at there"):
        fetch_set(BeirSet("toy", 1, source="there"), tmp_path, HOST, QUICKLY)


def test_a_download_says_what_it_does(site: Site, served: Callable[[bytes], Path], caplog) -> None:
    caplog.set_level(logging.INFO, "ragcun")
    served(archive(FILES))
    assert f"downloading {site.url}/toy.zip" in caplog.text
