"""download_msmarco.py and download_wiki.py: from folders, from a hub on 127.0.0.1, failed, repeated, refused."""

import json
import os
import subprocess
import sys

import pytest

from ragcun.data.pairs import read_pairs
from ragcun.io import file_digest
from tests.hub import COMMIT, serving, write_split

SEVERAL = """
import json, sys
from ragcun.cli.download import MsmarcoOptions, WikiOptions, msmarco, wikipedia
from ragcun.data.pairs import read_pairs
from ragcun.errors import InputError
from ragcun.options import from_mapping
for call in json.loads(sys.argv[1]):
    try:
        if "pairs" in call:
            print(list(read_pairs(call["pairs"]).rows()))
            continue
        run, options = (wikipedia, WikiOptions) if "output" in call else (msmarco, MsmarcoOptions)
        print(run(from_mapping(options, call)).replace("\\n", " "))
    except InputError as error:
        print(f"InputError: {error}")
"""


@pytest.fixture
def hub(data_sets, tmp_path):
    """Make calls in a fresh process whose hub is a stand-in; return a line for each, and the stand-in's handler."""
    repositories = {"datasets/microsoft/ms_marco": "marco", "datasets/wikimedia/wikipedia": "wiki", "datasets/a/b": "b"}
    with serving({name: data_sets / folder for name, folder in repositories.items()}) as (address, handler):

        def call(*calls, **environment):
            own = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home")}
            own |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
            command = [sys.executable, "-c", SEVERAL, json.dumps(calls)]
            environment = os.environ | own | environment
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, timeout=120, check=True)
            return done.stdout.splitlines()

        yield call, handler


def contents(folder, without="manifest.json"):
    """Return the bytes of a folder's files, by name, hidden ones too."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.endswith(without)}


@pytest.mark.slow
def test_the_hub_gives_what_a_folder_gives_also_after_it_failed(run_script, hub, data_sets, tmp_path):
    call, handler = hub
    local = ("--source", data_sets / "marco", "--subset", "v1.1", "--output_dir", tmp_path / "m")
    run_script("download_msmarco", *local)
    run_script("download_wiki", "--source", data_sets / "wiki", "--output", tmp_path / "w" / "w.jsonl")
    calls = ({"output_dir": str(tmp_path / "hm")}, {"output": str(tmp_path / "hw" / "w.jsonl")})
    handler.forbidden = {"train-00001-of-00003.parquet"}
    for line in call(*calls):
        assert line.startswith("InputError"), line
        assert "cannot be read" in line
    assert not list(tmp_path.glob("h[mw]/*"))
    handler.forbidden = set()
    lines = call(*calls)
    assert not any(line.startswith("InputError") for line in lines), lines
    assert contents(tmp_path / "hm") == contents(tmp_path / "m")
    assert contents(tmp_path / "hw") == contents(tmp_path / "w")
    source = json.loads((tmp_path / "hm" / "manifest.json").read_text())["source"]
    assert source == {"name": "microsoft/ms_marco", "subset": "v1.1", "split": "train", "revision": COMMIT}


@pytest.mark.slow
def test_pairs_are_read_from_the_hub_by_name(hub, data_sets):
    call, _ = hub
    rows = [{"anchor": f"q{i}", "answer": "a", "label": i % 2} for i in range(4)]
    for split, some in (("train", rows), ("dev", rows[:2])):
        write_split(data_sets / "b" / "data", some, split=split)
    lines = call({"pairs": "a/b"}, {"pairs": "a/b:default:dev"}, {"pairs": "a/b::test"}, {"pairs": "a/c"})
    assert lines[:2] == ["[('q1', 'a', None), ('q3', 'a', None)]", "[('q1', 'a', None)]"]
    assert all(line.startswith("InputError: cannot open a/") for line in lines[2:])


@pytest.mark.slow
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
    cases = ((subset, "v9", "v1.1"), (split, "test", "train"), (other, ".xx", "20231101.en"))
    for message, asked, there in (*cases, (unknown, "team/nothing", "404"), (old, "v0", "404")):
        assert message.startswith("InputError: cannot open")
        assert asked in message
        assert there in message
    (away,) = call(out, HF_ENDPOINT="http://127.0.0.1:9")
    assert "cannot open microsoft/ms_marco" in away
    assert "connection" in away
    (offline,) = call(out, HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE" in offline
    assert [path.name for path in tmp_path.rglob("*.json*") if "home" not in path.parts] == []


@pytest.fixture
def source(data_sets):
    """Flags that name the folder of MS MARCO."""
    return ("--source", data_sets / "marco", "--subset", "v1.1", "--output_dir")


@pytest.fixture
def marco(run_script, source, tmp_path):
    """Run download_msmarco.py on the folder of MS MARCO."""
    return lambda output, *flags: run_script("download_msmarco", *source, tmp_path / output, *flags)


@pytest.mark.parametrize("negatives", ["bm25", "given", "random", "none", "dense"])
def test_pairs_and_their_negatives(marco, tmp_path, tiny_bert, negatives):
    flags = ["--negatives", negatives, "--negatives_per_query", 2, "--num_dev", 15, "--base_model", tiny_bert]
    flags += ["--negative_margin", "none"] if negatives == "dense" else []  # its vectors are drawn at random
    marco("m", *flags, "--max_train_samples", 70, "--cache_dir", tmp_path / "cache")
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
        path = tmp_path / "m" / name
        assert facts == {"bytes": path.stat().st_size, "blake2b": file_digest(path)}
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == sorted([*manifest["files"], "manifest.json"])


def test_what_is_there_is_neither_replaced_nor_made_again_unasked(marco, source, fails_clearly, data_sets, tmp_path):
    marco("m")
    before = contents(tmp_path / "m", ())
    where = (*source, tmp_path / "m")
    assert "already exists" in fails_clearly("download_msmarco", *where)
    assert "nothing to do" in marco("m", "--resume")
    assert "seed is 0 there and 1 now" in fails_clearly("download_msmarco", *where, "--resume", "--seed", 1)
    failed = fails_clearly("download_msmarco", *where[2:], "--source", data_sets / "wiki", "--overwrite")
    assert str(data_sets / "wiki") in failed
    assert contents(tmp_path / "m", ()) == before
    marco("m", "--overwrite", "--seed", 1)
    marco("other", "--seed", 1)
    assert contents(tmp_path / "m", ()) == contents(tmp_path / "other", ()) != before
    (tmp_path / "m" / "train.jsonl").write_text("cut")
    assert "train.jsonl" in fails_clearly("download_msmarco", *where, "--resume", "--seed", 1)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "train.jsonl").write_text("mine")
    assert "already exists" in fails_clearly("download_msmarco", *source, tmp_path / "own", "--resume")
    assert (tmp_path / "own" / "train.jsonl").read_text() == "mine"


@pytest.mark.parametrize(
    ("script", "flags", "part"),
    [
        ("msmarco", ("--negative_margin", "wide"), "negatives cannot be mined"),
        ("msmarco", ("--revision", "main"), "--revision applies to hub data sets"),
        ("msmarco", ("--source", "/no/such"), "no such folder: /no/such"),
        ("wiki", ("--min_length", 9, "--max_length", 8), "got 9 and 8"),
        ("wiki", ("--output", "w.csv"), "ends in .jsonl, .ndjson, .json or .txt"),
        ("wiki", ("--max_length", 900, "--min_length", 800), "has no passages of 800 words"),
    ],
)
def test_wrong_settings_are_one_sentence(fails_clearly, source, data_sets, tmp_path, script, flags, part):
    wiki = ("--source", data_sets / "wiki", "--output", tmp_path / "w.jsonl")
    where = (*source, tmp_path / "m") if script == "msmarco" else wiki
    assert part in fails_clearly(f"download_{script}", *where, *flags)
    assert not list(tmp_path.rglob("*.jsonl"))
