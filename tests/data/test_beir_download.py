"""Sets of BEIR from a stand-in with the hub's layout and from mirrors of archives, and what is unpacked of these."""

import functools
import hashlib
import http.server
import io
import stat
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import pytest

from ragcun import InputError, load_collection
from ragcun.data.beir_sets import BeirSet, fetch_set, mirror_url
from tests.data.test_pairs import write_rows
from tests.hub import listening

FILES = {
    "corpus.jsonl": '{"_id": "d1", "title": "", "text": "one"}\n{"_id": "d2", "title": "", "text": "two"}\n',
    "queries.jsonl": '{"_id": "q1", "text": "one"}\n',
    "qrels/test.tsv": "query-id\tcorpus-id\tscore\nq1\td1\t1\n",
}


def archive(files: dict[str, str], top: str = "toy/") -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in files.items():
            zipped.writestr(f"{top}{name}", content)
    return packed.getvalue()


def toy(content: bytes) -> BeirSet:
    return BeirSet("toy", 1, hashlib.md5(content).hexdigest())


def names(folder: Path) -> set[str]:
    """What lies in a folder beside the lock that fetching leaves."""
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[str]:
    """The address of a server of the folder ``mirror`` on this machine."""
    (tmp_path / "mirror").mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "mirror"))
    with listening(handler) as address:
        yield address


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the layout of mteb's repositories: a card that names the subsets, and a file for each split."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "hub"
    (folder / "qrels").mkdir(parents=True)
    write_rows(folder / "corpus.jsonl", [{"_id": f"d{i}", "title": "Ä" * i, "text": f'text "{i}"\n'} for i in range(3)])
    write_rows(folder / "queries.jsonl", [{"_id": str(10 * i), "text": f"query {i}"} for i in range(2)])
    for split, query in (("test", "0"), ("train", "10")):
        write_rows(folder / "qrels" / f"{split}.jsonl", [{"query-id": query, "corpus-id": "d1", "score": 1.0}])
    card = "---\nconfigs:\n"
    for name, files in {"default": "qrels", "corpus": "corpus", "queries": "queries"}.items():
        card += f"- config_name: {name}\n  data_files:\n"
        splits = {"test": "qrels/test", "train": "qrels/train"} if files == "qrels" else {name: name}
        card += "".join(f"  - split: {split}\n    path: {path}.jsonl\n" for split, path in splits.items())
    (folder / "README.md").write_text(card + "---\n")
    return folder


def test_a_set_of_the_hub_becomes_a_folder_of_beir_and_one_that_it_does_not_give_leaves_nothing(hub, tmp_path):
    fetch_set(BeirSet("toy", 1, "", ((str(hub), "main"),)), tmp_path / "data")
    test, train = (load_collection(tmp_path / "data" / "toy", split) for split in ("test", "train"))
    assert {key: document.title for key, document in test.documents.items()} == {"d0": "", "d1": "Ä", "d2": "ÄÄ"}
    assert test.documents["d2"].text == 'text "2"\n'
    assert (test.queries, test.qrels) == ({"0": "query 0"}, {"0": {"d1": 1}})
    assert (train.queries, train.qrels) == ({"10": "query 1"}, {"10": {"d1": 1}})
    fetch_set(BeirSet("parts", 1, "", ((str(hub), "main"),) * 2, parts=("a", "b")), tmp_path / "data")
    assert load_collection(tmp_path / "data" / "parts" / "b").documents == test.documents
    (hub / "qrels" / "train.jsonl").unlink()
    with pytest.raises(InputError, match=r"hub cannot be downloaded .* --mirror"):
        fetch_set(BeirSet("toy", 1, "", ((str(hub), "main"),)), tmp_path / "none")
    assert not names(tmp_path / "none")


@pytest.mark.parametrize("kind", ["http", "file", "variable"])
def test_a_mirror_gives_the_set_and_nothing_else_stays(mirror, tmp_path, monkeypatch, kind):
    content = archive({**FILES, "README.txt": "read me", "qrels/notes.txt": "x", "toy/corpus.jsonl": "x"})
    (tmp_path / "mirror" / "toy.zip").write_bytes(content)
    data = tmp_path / "data"
    monkeypatch.setenv("RAGCUN_BEIR_MIRROR", f"{mirror}/" if kind == "variable" else "https://absent.invalid")
    url = mirror_url({"http": mirror, "file": f"file://{tmp_path}/mirror"}.get(kind))
    fetch_set(toy(content), data, url)
    assert names(data) == {"toy"}
    assert {path.relative_to(data / "toy").as_posix() for path in (data / "toy").rglob("*.*")} == set(FILES)
    assert [document.text for document in load_collection(data / "toy").documents.values()] == ["one", "two"]
    (tmp_path / "mirror" / "toy.zip").unlink()
    fetch_set(toy(content), data, url)


@pytest.mark.parametrize("address", ["http", "file", "nobody"])
def test_an_archive_that_is_not_there_is_one_sentence(mirror, tmp_path, address):
    url = {"http": mirror, "file": f"file://{tmp_path}/mirror", "nobody": "http://127.0.0.1:9"}[address]
    with pytest.raises(InputError, match=r"toy\.zip cannot be reached .* --mirror"):
        fetch_set(toy(b""), tmp_path / "data", url)
    assert not names(tmp_path / "data")


@pytest.mark.parametrize("content", [b"<html>moved</html>", archive(FILES)[:-20]])
def test_another_archive_than_beirs_is_refused_and_not_kept(mirror, tmp_path, content):
    (tmp_path / "mirror" / "toy.zip").write_bytes(content)
    expected = toy(archive(FILES))
    with pytest.raises(InputError, match=f"{hashlib.md5(content).hexdigest()} where {expected.md5}"):
        fetch_set(expected, tmp_path / "data", mirror)
    assert not names(tmp_path / "data")


def test_redirections_to_unsafe_addresses_are_refused(mirror, tmp_path, monkeypatch):
    """The server on this machine sends us to itself under a name that is not safe."""
    host = mirror.replace("127.0.0.1", "127.0.0.2")
    handler = http.server.SimpleHTTPRequestHandler

    def redirect(self: http.server.SimpleHTTPRequestHandler) -> None:
        if "moved" not in self.path:
            self.send_response(302)
            self.send_header("Location", f"{host}/moved.zip")
        else:
            self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    monkeypatch.setattr(handler, "do_GET", redirect)
    with pytest.raises(InputError, match=r"not safe to download from|cannot be reached"):
        fetch_set(toy(b""), tmp_path / "data", mirror)
    assert not names(tmp_path / "data")


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/sets", "ftp://example.org/sets", "/sets", "sets", " ", "https://", "file://host/sets",
        "https://me:word@example.org", "http://127.0.0.1.example.org/", "http://localhost@example.org/x",
        "http://[::1", "data:text/plain,x", "javascript:alert(1)",
    ],
)  # fmt: skip
def test_unsafe_addresses_are_refused_without_their_passwords(url):
    with pytest.raises(InputError, match="give https://") as caught:
        mirror_url(url)
    assert "word" not in str(caught.value)


@pytest.mark.parametrize("url", ["https://example.org/x", "http://127.0.0.1:80/x", "http://[::1]/x", "file:///x/a@b"])
def test_safe_addresses_pass(url):
    assert mirror_url(f"{url}/") == url


def test_what_is_in_the_way_is_not_replaced(tmp_path):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match=r"lacks corpus.jsonl"):
        fetch_set(toy(b""), tmp_path)
    assert (tmp_path / "toy" / "mine.txt").read_text() == "mine"


def test_an_archive_in_the_folder_is_taken_once_and_left_there(tmp_path):
    (tmp_path / "toy.zip").write_bytes(content := archive(FILES))
    mirror = "http://127.0.0.1:9"  # nobody answers there
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(fetch_set, [toy(content)] * 4, [tmp_path] * 4, [mirror] * 4))
    assert names(tmp_path) == {"toy", "toy.zip"}


def test_what_an_archive_holds_beside_the_sets_files_has_no_effect(tmp_path):
    """Names that lead out of the folder, other folders, and links are passed over; nothing but plain files is made."""
    ways_out = [
        "../out.txt",
        "toy/../../out.txt",
        str(tmp_path / "out.txt"),
        "toy\\..\\out.txt",
        "toy/qrels/../../out.tsv",
    ]
    others = [f"{top}/{name}" for top in ("__MACOSX", "scifact", "toy/toy", "toy/qrels") for name in FILES]
    packed = io.BytesIO(archive(dict.fromkeys([*ways_out, *others], "out") | {f"toy/{n}": FILES[n] for n in FILES}, ""))
    with zipfile.ZipFile(packed, "a") as zipped:
        for name in ("toy/qrels/dev.tsv", "toy/link"):
            link = zipfile.ZipInfo(name)
            link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
            zipped.writestr(link, "/etc/passwd")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "toy.zip").write_bytes(packed.getvalue())
    fetch_set(toy(packed.getvalue()), tmp_path / "data")
    folder = tmp_path / "data" / "toy"
    made = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if not path.is_dir()}
    assert made.keys() == {*FILES, "qrels/dev.tsv"}
    assert not any(path.is_symlink() for path in made.values())
    assert made["qrels/dev.tsv"].read_text() == "/etc/passwd"
    assert not list(tmp_path.rglob("out.t*"))
