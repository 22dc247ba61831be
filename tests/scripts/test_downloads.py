"""download_msmarco.py and download_wiki.py: from folders, from a hub on 127.0.0.1, failed, repeated, refused."""

import json

import pytest
from huggingface_hub import constants

from ragcun import InputError, read_pairs
from ragcun.io import file_digest
from tests.hub import COMMIT, forget_sessions, point_at, serving, write_split


@pytest.fixture
def hub(data_sets, monkeypatch):
    """The handler of a stand-in for the hub, which clients ask."""
    repositories = {"datasets/microsoft/ms_marco": "marco", "datasets/wikimedia/wikipedia": "wiki", "datasets/a/b": "b"}
    with serving({name: data_sets / folder for name, folder in repositories.items()}) as (address, handler):
        point_at(monkeypatch, address)
        yield handler


def contents(folder, without="manifest.json"):
    """Return the bytes of a folder's files, by name, hidden ones too."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.endswith(without)}


def test_the_hub_gives_what_a_folder_gives_also_after_it_failed(run_script, fails_clearly, hub, data_sets, tmp_path):
    local = ("--source", data_sets / "marco", "--subset", "v1.1", "--output_dir", tmp_path / "m")
    run_script("download_msmarco", *local)
    run_script("download_wiki", "--source", data_sets / "wiki", "--output", tmp_path / "w" / "w.jsonl")
    commands = (
        ("download_msmarco", "--output_dir", tmp_path / "hm"),
        ("download_wiki", "--output", tmp_path / "hw" / "w.jsonl"),
    )
    hub.forbidden = {"train-00001-of-00003.parquet"}
    for command in commands:
        assert "cannot be read" in fails_clearly(*command)
    assert not list(tmp_path.glob("h[mw]/*"))
    hub.forbidden = set()
    for command in commands:
        run_script(*command)
    assert contents(tmp_path / "hm") == contents(tmp_path / "m")
    assert contents(tmp_path / "hw") == contents(tmp_path / "w")
    source = json.loads((tmp_path / "hm" / "manifest.json").read_text())["source"]
    assert source == {"name": "microsoft/ms_marco", "subset": "v1.1", "split": "train", "revision": COMMIT}


def test_pairs_are_read_from_the_hub_by_name(hub, data_sets):
    rows = [{"anchor": f"q{i}", "answer": "a", "label": i % 2} for i in range(4)]
    for split, some in (("train", rows), ("dev", rows[:2])):
        write_split(data_sets / "b" / "data", some, split=split)
    assert list(read_pairs("a/b").rows()) == [("q1", "a", None), ("q3", "a", None)]
    assert list(read_pairs("a/b:default:dev").rows()) == [("q1", "a", None)]
    for name in ("a/b::test", "a/c"):
        with pytest.raises(InputError, match="cannot open a/"):
            read_pairs(name)


def test_what_the_hub_has_not_is_one_sentence(fails_clearly, hub, tmp_path, monkeypatch):
    msmarco, wiki = ("msmarco", "--output_dir", tmp_path / "m"), ("wiki", "--output", tmp_path / "w.jsonl")
    for command, *facts in (
        ((*msmarco, "--source", "team/nothing"), "team/nothing", "404"),
        ((*msmarco, "--subset", "v9"), "v9", "v1.1"),
        ((*msmarco, "--split", "test"), "test", "train"),
        ((*msmarco, "--revision", "v0"), "v0", "404"),
        ((*wiki, "--language", "xx"), ".xx", "20231101.en"),
    ):
        message = fails_clearly(f"download_{command[0]}", *command[1:])
        assert all(fact in message for fact in ("cannot open", *facts)), message
    point_at(monkeypatch, "http://127.0.0.1:9")
    away = fails_clearly("download_msmarco", *msmarco[1:])
    assert "cannot open microsoft/ms_marco" in away
    assert "connection" in away
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    forget_sessions()
    assert "HF_HUB_OFFLINE" in fails_clearly("download_msmarco", *msmarco[1:])
    assert [path.name for path in tmp_path.rglob("*.json*")] == []


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
    ],
)
def test_wrong_settings_are_one_sentence(fails_clearly, source, data_sets, tmp_path, script, flags, part):
    wiki = ("--source", data_sets / "wiki", "--output", tmp_path / "w.jsonl")
    where = (*source, tmp_path / "m") if script == "msmarco" else wiki
    assert part in fails_clearly(f"download_{script}", *where, *flags)
    assert not list(tmp_path.rglob("*.jsonl"))
