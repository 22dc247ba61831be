"""download_msmarco.py and download_wiki.py: from folders, from a hub on 127.0.0.1, killed, gone on with, refused."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ragcun.data.beir import Document
from ragcun.data.documents import read_documents
from ragcun.data.download_files import Download
from ragcun.data.pairs import read_pairs

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB_NAMES = {"microsoft/ms_marco": "marco", "wikimedia/wikipedia": "wiki"}
FEATURES = """
dataset_info:
- config_name: v1.1
  features:
  - name: query
    dtype: string
  - name: query_id
    dtype: int32
  - name: answers
    sequence: string
  - name: passages
    sequence:
    - name: is_selected
      dtype: int32
    - name: passage_text
      dtype: string
    - name: url
      dtype: string
"""
SLOWLY = """
import runpy, sys
from ragcun.data import part_file
part_file.SAVE_EVERY = 1
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
SEVERAL = """
import json, sys
from ragcun.cli.download import download_msmarco, download_wiki
from ragcun.cli.download import MsmarcoOptions, WikiOptions
from ragcun.errors import InputError
from ragcun.data import part_file
part_file.SAVE_EVERY = 7
for call in json.loads(sys.argv[1]):
    try:
        if "output" in call:
            print(download_wiki(WikiOptions(**call)).replace("\\n", " "))
        else:
            print(download_msmarco(MsmarcoOptions(**call)).replace("\\n", " "))
    except InputError as error:
        print(f"InputError: {error}")
"""


def write_split(folder, rows, n_files):
    """Write rows into parquet files named as the hub names them."""
    folder.mkdir(parents=True)
    schema = pa.Table.from_pylist(rows).schema
    for place in range(n_files):
        part = rows[len(rows) * place // n_files : len(rows) * (place + 1) // n_files]
        path = folder / f"train-{place:05d}-of-{n_files:05d}.parquet"
        pq.write_table(pa.Table.from_pylist(part, schema), path, row_group_size=8)


def sentence(draw):
    return " ".join(
        draw.choice(["heat", "flows", "Größe", "stone", "river", "cold", "東京"]) for _ in range(8)
    ).capitalize()


@pytest.fixture(scope="session")
def data_sets(tmp_path_factory):
    """Two folders as the hub has them, each with a card and a subset: ``marco`` and ``wiki``."""
    root, draw = tmp_path_factory.mktemp("hub"), random.Random(0)
    marco = []
    for number in range(120):
        texts = [f"{sentence(draw)} {number} {i}." for i in range(4)]
        fields = {"is_selected": [0, int(number % 6 > 0), 0, 0], "passage_text": texts, "url": ["u"] * 4}
        query = " ".join(texts[1].split()[:3]) + f" {number}"
        marco.append({"query": query, "query_id": number, "answers": ["a"], "passages": fields})
    wiki = [
        {
            "id": str(n),
            "url": "u",
            "title": f"Über {n}",
            "text": "\n\n".join(f"{sentence(draw)} {n}." for _ in range(4)),
        }
        for n in range(120)
    ]
    for name, subset, rows in (("marco", "v1.1", marco), ("wiki", "20231101.en", wiki)):
        write_split(root / name / subset, rows, 3)
        files = f"  data_files:\n  - split: train\n    path: {subset}/train-*\n"
        features = FEATURES.strip() + "\n" if name == "marco" else ""
        card = f"---\n{features}configs:\n- config_name: {subset}\n{files}---\n# Card\n"
        (root / name / "README.md").write_text(card)
    return root


class StandIn(BaseHTTPRequestHandler):
    """A hub that has the data sets of `HUB_NAMES`, whose files lie in `root`; those in `forbidden` are refused."""

    protocol_version = "HTTP/1.1"
    root: Path
    forbidden: set[str]

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        path = unquote(self.path.split("?")[0])
        for name, folder in HUB_NAMES.items():
            files = {str(file.relative_to(self.root / folder)): file for file in (self.root / folder).rglob("*")}
            api, resolve = f"/api/datasets/{name}", f"/datasets/{name}/resolve/{COMMIT}/"
            if path in (api, f"{api}/revision/{COMMIT}"):
                return self.send_json({"id": name, "sha": COMMIT, "siblings": [{"rfilename": key} for key in files]})
            if path.startswith(f"{api}/tree/{COMMIT}"):
                under = self.root / folder / path.removeprefix(f"{api}/tree/{COMMIT}").lstrip("/")
                return self.send_json([self.entry(key) for key in files.items() if key[1].parent == under])
            if path.startswith(resolve) and path.removeprefix(resolve) in files:
                return self.send_file(files[path.removeprefix(resolve)])
            if path.startswith(resolve):
                return self.send(404, b"", {"X-Error-Code": "EntryNotFound"})
        return self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def entry(self, item):
        name, file = item
        kind = "directory" if file.is_dir() else "file"
        size = 0 if file.is_dir() else file.stat().st_size
        return {"type": kind, "path": name, "size": size, "oid": hashlib.sha1(name.encode()).hexdigest()}

    def send_file(self, file):
        content, part = file.read_bytes(), self.headers.get("Range")
        if file.name in self.forbidden and self.command == "GET":
            return self.send(403, b"", {})
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "Accept-Ranges": "bytes"}
        if part is None:
            return self.send(200, content, headers)
        first, last = (int(end) for end in part.removeprefix("bytes=").split("-"))
        shown = content[first : last + 1]
        headers["Content-Range"] = f"bytes {first}-{first + len(shown) - 1}/{len(content)}"
        return self.send(206, shown, headers)

    def send_json(self, value):
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def send(self, status, content, headers):
        self.send_response(status)
        for name, value in {"Content-Length": len(content), "X-Repo-Commit": COMMIT, **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub(data_sets, tmp_path):
    """Make calls in a fresh process whose hub is the stand-in; return a line for each, and the stand-in's handler."""
    handler = type("Handler", (StandIn,), {"root": data_sets, "forbidden": set()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def call(*calls, **environment):
        own = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "home")}
        own |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        command = [sys.executable, "-c", SEVERAL, json.dumps(calls)]
        done = subprocess.run(
            command, env=os.environ | own | environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    yield call, handler
    server.shutdown()


def contents(folder, without=("manifest.json",)):
    """Return the bytes of a folder's files, by name, hidden ones too."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.endswith(without)}


def test_the_hub_gives_what_a_folder_gives_also_after_it_failed(run_script, hub, data_sets, tmp_path):
    call, handler = hub
    for folder, name in (("marco", "msmarco"), ("wiki", "wiki")):
        flags = ("--output_dir", tmp_path / "m") if folder == "marco" else ("--output", tmp_path / "w" / "w.jsonl")
        more = ("--subset", "v1.1") if folder == "marco" else ()
        done = run_script(f"download_{name}", *flags, *more, "--source", data_sets / folder)
        assert done.code == 0, done.err
    calls = ({"output_dir": str(tmp_path / "hm")}, {"output": str(tmp_path / "hw" / "w.jsonl")})
    handler.forbidden = {"train-00001-of-00003.parquet"}
    for line in call(*calls):
        assert line.startswith("InputError"), line
        assert "cannot be read on" in line
        assert "go on from there" in line
    assert sorted(contents(tmp_path / "hm")) == ["rows.part", "rows.part.json"]
    assert sorted(contents(tmp_path / "hw")) == ["w.jsonl.part", "w.jsonl.part.json"]
    assert json.loads((tmp_path / "hm" / "rows.part.json").read_text())["counts"]["rows_read"] == 40
    handler.forbidden = set()
    lines = call(*calls)
    assert not any(line.startswith("InputError") for line in lines), lines
    assert contents(tmp_path / "hm") == contents(tmp_path / "m")
    assert contents(tmp_path / "hw") == contents(tmp_path / "w")
    manifest = json.loads((tmp_path / "hm" / "manifest.json").read_text())
    assert manifest["source"]["revision"] == COMMIT
    assert manifest["source"]["name"] == "microsoft/ms_marco"


def test_what_the_hub_has_not_is_one_sentence(hub, tmp_path):
    call, _ = hub
    out = {"output_dir": str(tmp_path / "m")}
    unknown, subset, split, old, other = call(
        {**out, "source": "team/nothing"},
        {**out, "subset": "v9"},
        {**out, "split": "test"},
        {**out, "revision": "v0"},
        {"output": str(tmp_path / "w.jsonl"), "language": "xx"},
    )
    assert unknown.startswith("InputError: the hub does not give the data set 'team/nothing' (404); give a name")
    assert "at revision v0 (404)" in old
    for message, asked, there in ((subset, "v9", "v1.1"), (split, "test", "train"), (other, ".xx", "20231101.en")):
        assert message.startswith("InputError: cannot open")
        assert asked in message
        assert there in message
        assert "check --subset and --split" in message
    (away,) = call(out, HF_ENDPOINT="http://127.0.0.1:9")
    assert away.startswith("InputError: the hub cannot be reached for the data set 'microsoft/ms_marco'")
    (offline,) = call(out, HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set" in offline
    assert [path.name for path in tmp_path.rglob("*.json*") if "home" not in path.parts] == []


@pytest.fixture
def marco(run_script, data_sets, tmp_path):
    """Run download_msmarco.py on the folder of MS MARCO."""

    def run(output, *flags):
        where = ("--source", data_sets / "marco", "--subset", "v1.1", "--output_dir", tmp_path / output)
        return run_script("download_msmarco", *where, *flags)

    return run


@pytest.mark.parametrize("negatives", ["bm25", "given", "random", "none", "dense"])
def test_pairs_and_their_negatives(marco, tmp_path, tiny_bert, negatives):
    flags = ["--negatives", negatives, "--negatives_per_query", 2, "--num_dev", 15, "--base_model", tiny_bert]
    flags += ["--negative_margin", "none"] if negatives == "dense" else []  # its vectors are drawn at random
    done = marco("m", *flags, "--max_train_samples", 70, "--cache_dir", tmp_path / "cache")
    assert done.code == 0, done.err
    train, dev = (read_pairs(tmp_path / "m" / f"{name}.jsonl") for name in ("train", "dev"))
    counts = json.loads((tmp_path / "m" / "statistics.json").read_text())
    manifest = json.loads((tmp_path / "m" / "manifest.json").read_text())
    assert len(train.queries) == counts["train"]["pairs"] == 70
    assert len(dev.queries) == counts["dev"]["queries"] == 15
    assert not set(train.queries) & set(dev.queries)
    assert counts["rows"]["rows_read"] == 102  # five in six rows have a positive: 85 of 102
    assert counts["rows"]["rows_without_positive"] == 17
    with_negative = int((train.negative_ids >= 0).sum())
    expected = {"given": 140, "random": 140, "dense": 140, "none": 0}.get(negatives)
    assert with_negative == expected if expected is not None else with_negative > 10
    assert all(negative != positive for _, positive, negative in train.rows())
    for name, facts in manifest["files"].items():
        content = (tmp_path / "m" / name).read_bytes()
        assert facts["sha256"] == hashlib.sha256(content).hexdigest()
        assert facts["lines"] == content.count(b"\n")
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == sorted([*manifest["files"], "manifest.json"])


def test_a_killed_download_leaves_nothing_that_looks_complete_and_is_gone_on_with(run_script, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    draw = random.Random(1)
    rows = [{"id": str(n), "url": "u", "title": "T", "text": f"{sentence(draw)} {n}."} for n in range(5000)]
    write_split(tmp_path / "many" / "20231101.en", rows, 3)
    arguments = ("--source", tmp_path / "many", "--max_length", 20, "--min_length", 2, "--output")
    command = [sys.executable, "-c", SLOWLY, SCRIPTS / "download_wiki.py", *arguments, tmp_path / "k" / "w.jsonl"]
    running = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    note = tmp_path / "k" / "w.jsonl.part.json"
    until = time.monotonic() + 60
    while not note.exists() and running.poll() is None and time.monotonic() < until:
        time.sleep(0.005)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    read = json.loads(note.read_text())["counts"]["rows_read"]
    assert 0 < read < 5000
    assert not (tmp_path / "k" / "w.jsonl").exists()
    assert not (tmp_path / "k" / "w.jsonl.manifest.json").exists()
    assert run_script("download_wiki", *arguments, tmp_path / "whole" / "w.jsonl").code == 0
    again = run_script("download_wiki", *arguments, tmp_path / "k" / "w.jsonl")
    assert again.code == 0, again.err
    left = contents(tmp_path / "k", ())
    assert left == contents(tmp_path / "whole", ())
    assert f"after {read} rows read" in caplog.text
    ids = [json.loads(line)["_id"] for line in (tmp_path / "k" / "w.jsonl").read_text().splitlines()]
    assert len(ids) == len(set(ids)) == json.loads(left["w.jsonl.manifest.json"])["counts"]["passages"]


@pytest.mark.parametrize("suffix", ["jsonl", "json", "txt"])
@pytest.mark.parametrize("step", [(Download, "write_manifest"), (os, "replace"), (Download, "clear_part")])
def test_a_failure_while_files_are_finished_is_gone_on_with(run_script, data_sets, tmp_path, monkeypatch, suffix, step):
    arguments = (
        "--source",
        data_sets / "wiki",
        "--num_passages",
        50,
        "--max_length",
        30,
        "--min_length",
        5,
        "--output",
    )
    assert run_script("download_wiki", *arguments, tmp_path / "whole" / f"w.{suffix}").code == 0
    file = tmp_path / "w" / f"w.{suffix}"
    real = getattr(*step)

    def fail(*given):
        if step[0] is not os or Path(given[1]) == file:
            raise KeyboardInterrupt
        return real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(*step, fail)
        assert run_script("download_wiki", *arguments, file).code == 130
    complete = file.exists() and file.with_name(f"{file.name}.manifest.json").exists()
    assert complete == (step[1] == "clear_part")
    done = run_script("download_wiki", *arguments, file, "--resume")
    assert done.code == 0, done.err
    assert ("nothing to do" in done.out) == complete
    assert contents(tmp_path / "w", ()) == contents(tmp_path / "whole", ())
    documents = read_documents(file)
    assert len(documents) == len(set(documents)) == 50
    if suffix != "txt":
        assert isinstance(documents[0], Document)
        assert documents[0].title.startswith("Über ")


def test_what_is_there_is_neither_replaced_nor_made_again_unasked(marco, fails_clearly, data_sets, tmp_path):
    assert marco("m").code == 0
    before = contents(tmp_path / "m", ())
    where = ("--source", data_sets / "marco", "--subset", "v1.1", "--output_dir", tmp_path / "m")
    message = fails_clearly("download_msmarco", *where)
    assert "is there already" in message
    assert "give --overwrite, or --resume to leave it" in message
    assert "nothing to do" in marco("m", "--resume").out
    assert "seed 0, now it is 1" in fails_clearly("download_msmarco", *where, "--resume", "--seed", 1)
    assert contents(tmp_path / "m", ()) == before
    failed = fails_clearly("download_msmarco", *where[2:], "--source", data_sets / "wiki", "--overwrite")
    assert "no train*.parquet" in failed
    assert contents(tmp_path / "m", ()) == before
    assert marco("m", "--overwrite", "--seed", 1).code == 0
    assert marco("other", "--seed", 1).code == 0
    assert contents(tmp_path / "m", ()) == contents(tmp_path / "other", ()) != before
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "train.jsonl").write_text("mine")
    assert "is there already" in fails_clearly("download_msmarco", *where[:-1], tmp_path / "own", "--resume")
    assert (tmp_path / "own" / "train.jsonl").read_text() == "mine"


def test_a_full_disk_is_named_and_the_download_goes_on(marco, fails_clearly, data_sets, tmp_path):
    where = ("--source", data_sets / "marco", "--subset", "v1.1", "--output_dir", tmp_path / "m")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (9000, limits[1]))
        message = fails_clearly("download_msmarco", *where)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "File too large; make room" in message
    assert not (tmp_path / "m" / "train.jsonl").exists()
    assert marco("m").code == 0
    assert marco("whole").code == 0
    assert contents(tmp_path / "m", ()) == contents(tmp_path / "whole", ())


@pytest.mark.parametrize(
    ("script", "flags", "part"),
    [
        ("msmarco", ("--dev_fraction", 1), "--dev_fraction must be at least 0 and below 1, got 1.0"),
        ("msmarco", ("--dev_fraction", 0.1, "--num_dev", 3), "contradict each other"),
        ("msmarco", ("--num_dev", -1), "--num_dev must be at least 0"),
        ("msmarco", ("--num_dev", 5000), "no pair is left for training of 100"),
        ("msmarco", ("--max_train_samples", 0), "--max_train_samples must be at least 1"),
        ("msmarco", ("--negatives_per_query", 0), "--negatives_per_query must be at least 1"),
        ("msmarco", ("--negative_margin", 2), "margin must be below 1"),
        ("msmarco", ("--negative_margin", "wide"), "negatives cannot be mined so"),
        ("msmarco", ("--negative_ranks", 5), "--negative_ranks are two numbers"),
        ("msmarco", ("--negative_ranks", 5, 5), "first < last, got 5 and 5"),
        ("msmarco", ("--revision", "main"), "--revision is of a data set on the hub"),
        ("msmarco", ("--resume", "--overwrite"), "contradict each other"),
        ("msmarco", ("--source", "/no/such"), "no such folder: /no/such"),
        ("wiki", ("--num_passages", 0), "--num_passages must be at least 1"),
        ("wiki", ("--min_length", 9, "--max_length", 8), "got 9 and 8"),
        ("wiki", ("--output", "w.csv"), "name the file .jsonl, .ndjson, .json or .txt"),
        ("wiki", ("--max_length", 900, "--min_length", 800), "has no passages of 800 words"),
    ],
)
def test_wrong_settings_are_one_sentence(fails_clearly, data_sets, tmp_path, script, flags, part):
    where = {
        "msmarco": ("--source", data_sets / "marco", "--subset", "v1.1", "--output_dir", tmp_path / "m"),
        "wiki": ("--source", data_sets / "wiki", "--output", tmp_path / "w.jsonl"),
    }
    assert part in fails_clearly(f"download_{script}", *where[script], *flags)
    assert not list(tmp_path.rglob("*.jsonl"))


def test_another_process_is_waited_for_by_the_user(fails_clearly, data_sets, tmp_path):
    download = Download(tmp_path / "manifest.json", (), tmp_path / "rows.part")
    with download.locked():
        where = ("--source", data_sets / "marco", "--subset", "v1.1", "--output_dir", tmp_path)
        assert "is being written by another process" in fails_clearly("download_msmarco", *where)
