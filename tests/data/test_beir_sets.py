"""The sets of BEIR by name, against the table in beir's own description, and what names stand for."""

import importlib.metadata
import re
from pathlib import Path

import pytest

from ragcun.data import beir_sets
from ragcun.data.beir import Document, write_collection
from ragcun.data.beir_sets import QUICK_SETS, SETS, BeirSet, find_sets
from ragcun.errors import InputError

LICENSED = {"bioasq", "signal1m", "trec-news", "robust04"}


def described() -> dict[str, tuple[int, str | None, set[str]]]:
    """Queries, MD5 and splits of each set, from the table in the description of the package beir."""
    pytest.importorskip("beir")
    text, table = importlib.metadata.metadata("beir").get_payload(), {}
    for row in re.findall(r"^\|[^\n]*``[^\n]*\|$", text, flags=re.MULTILINE):
        _, _, name, public, splits, queries, *_, md5 = [cell.strip() for cell in row.split("|")][1:-1]
        found = re.fullmatch("``([0-9a-f]{32})``", md5)
        digest = found[1] if found else None
        assert (public == "✅") == (digest is not None)
        table[name.strip("`")] = (int(queries.replace(",", "")), digest, set(re.findall(r"``(\w+)``", splits)))
    return table


def test_sets_are_those_that_beir_describes():
    table = described()
    assert len(table) == 19
    assert SETS.keys() == table.keys()
    for name, (queries, md5, splits) in table.items():
        assert (SETS[name].queries, SETS[name].md5) == (queries, md5)
        assert SETS[name].split in splits
    assert {name for name, each in SETS.items() if each.md5 is None} == LICENSED
    assert all(SETS[name].source for name in LICENSED)
    assert {name for name, each in SETS.items() if each.split != "test"} == {"msmarco"}
    assert {name: len(set(each.parts)) for name, each in SETS.items() if each.parts} == {"cqadupstack": 12}
    assert all(SETS[name].md5 for name in QUICK_SETS)


def test_commits_of_the_hub_are_those_of_mteb():
    """Each part of each set has a repository, at the commit that mteb evaluates."""
    mteb = pytest.importorskip("mteb")
    tasks = mteb.get_tasks(task_types=["Retrieval"], exclude_superseded=False)
    known = {task.metadata.dataset["path"]: task.metadata.dataset["revision"] for task in tasks}
    for beir_set in SETS.values():
        assert len(beir_set.hub) == (0 if beir_set.md5 is None else len(beir_set.parts) or 1)
        for part, (repository, commit) in zip(beir_set.parts or (beir_set.name,), beir_set.hub, strict=False):
            assert known[repository] == commit
            assert part.replace("-", "")[:6] in repository.lower().replace("-", "") or part == "webis-touche2020"


def put(folder: Path, *splits: str) -> None:
    documents = {"d1": Document("", "one"), "d2": Document("", "two")}
    write_collection(folder, documents, {"q1": "one"}, {split: {"q1": {"d1": 1}} for split in splits or ("test",)})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with two collections of no set, two sets, and all forums of CQADupStack."""
    for name in ("mine", "scifact", "train-only"):
        put(tmp_path / name, "train" if name == "train-only" else "test")
    put(tmp_path / "msmarco", "dev", "test")
    for forum in SETS["cqadupstack"].parts:
        put(tmp_path / "cqadupstack" / forum)
    return tmp_path


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the sets that are fetched; none is downloaded."""
    names = []

    def fetch_set(beir_set: BeirSet, data_dir: Path, mirror: str | None) -> None:
        names.append(beir_set.name)
        for part in beir_set.parts or (".",):
            put(data_dir / beir_set.name / part, beir_set.split, "test")

    monkeypatch.setattr(beir_sets, "fetch_set", fetch_set)
    return names


def names(found) -> list[str]:
    return [folder.name for folder in found]


def test_names_are_folders_and_sets_in_the_order_given_and_all_is_what_is_there(data, caplog):
    found = find_sets(data, ["scifact", "mine", "scifact", "cqadupstack"])
    assert names(found) == ["scifact", "mine", *(f"cqadupstack/{forum}" for forum in SETS["cqadupstack"].parts)]
    assert [folder.path for folder in found] == [data / name for name in names(found)]
    assert [folder.load().name for folder in found] == names(found)
    caplog.set_level("INFO")
    expected = [*(f"cqadupstack/{forum}" for forum in SETS["cqadupstack"].parts), "mine", "msmarco", "scifact"]
    assert names(find_sets(data, ["all"])) == expected
    assert set(caplog.messages[-1].rpartition(": ")[2].split(", ")) == {*SETS} - {"cqadupstack", "msmarco", "scifact"}
    assert names(find_sets(data, ["quora", "all"])) == expected


def test_the_split_is_beirs_unless_one_is_given(data):
    splits = [folder.split for folder in find_sets(data, ["msmarco", "mine", "cqadupstack"])]
    assert splits == ["dev", *["test"] * 13]
    (given,) = find_sets(data, ["msmarco"], split="test")
    assert given.split == given.load().split == "test"
    with pytest.raises(InputError, match=r"mine: no judgments for the split 'dev' \(qrels/dev.tsv\)"):
        find_sets(data, ["msmarco", "mine"], split="dev")


def test_all_with_fetching_is_also_every_set_that_can_be_had(data, fetched, caplog):
    caplog.set_level("INFO")
    put(data / "robust04")
    found = {name.partition("/")[0] for name in names(find_sets(data, ["all"], fetch=True))}
    assert found == (SETS.keys() - LICENSED) | {"mine", "robust04"}
    assert set(fetched) == SETS.keys() - LICENSED - {"scifact", "msmarco", "cqadupstack"}
    for name in LICENSED - {"robust04"}:
        assert f"{name} is left out: it cannot be downloaded, ask for it at {SETS[name].source}" in caplog.text
    assert "robust04 is left out" not in caplog.text


def test_quick_is_five_sets(data, fetched):
    found = find_sets(data, ["quick", "mine"], fetch=True)
    assert names(found) == ["scifact", "nfcorpus", "arguana", "fiqa", "scidocs", "mine"]
    assert fetched == ["nfcorpus", "arguana", "fiqa", "scidocs"]
    find_sets(data, ["scifact", "mine", "cqadupstack", "quora"], fetch=True)
    assert fetched[4:] == ["quora"]


@pytest.mark.parametrize(
    ("name", "fetches", "message"),
    [
        ("quora", False, r"quora is not in .*; give --download \(or --mirror URL\), or put its folder there"),
        ("bioasq", False, r"ask for it at http://bioasq\.org, and put it into .*bioasq"),
        ("bioasq", True, r"bioasq cannot be downloaded: .* corpus\.jsonl, queries\.jsonl and qrels/test\.tsv"),
        ("quorra", True, r"no collection 'quorra' in .*; did you mean 'quora'"),
        ("mien", True, r"did you mean 'mine'\?"),
        ("zzz", False, r"no collection 'zzz' in .*; there is mine, msmarco, scifact, train-only"),
        ("", True, "no collection"),
        ("cqadupstack/android", True, "no collection"),
    ],
)
def test_a_name_that_is_not_there_is_one_sentence(data, fetched, name, fetches, message):
    """And nothing is fetched, neither what is named before it."""
    with pytest.raises(InputError, match=message):
        find_sets(data, ["fiqa", name] if fetches else [name], fetch=fetches)
    assert not fetched


def test_a_set_that_lacks_a_part_is_refused_and_half_a_folder_not_seen(data):
    (data / "scifact").rename(data / ".scifact.x.tmp")
    assert "scifact" not in str(names(find_sets(data, ["all"])))
    with pytest.raises(InputError, match="no collection"):
        find_sets(data, [".scifact.x.tmp"])
    (data / "cqadupstack" / "tex" / "corpus.jsonl").unlink()
    (data / "cqadupstack" / "gis" / "corpus.jsonl").unlink()
    for asked in (["cqadupstack"], ["all"]):
        with pytest.raises(InputError, match=r"cqadupstack lacks gis, tex; add what is missing"):
            find_sets(data, asked)


def test_nothing_there_is_refused_unless_it_is_fetched(tmp_path, fetched):
    with pytest.raises(InputError, match=r"no such folder.*--download"):
        find_sets(tmp_path / "absent", ["all"])
    with pytest.raises(InputError, match=r"there is no collection at all; give --download"):
        find_sets(tmp_path, ["all"])
    assert names(find_sets(tmp_path / "absent", ["scifact"], fetch=True)) == fetched == ["scifact"]


def test_another_number_of_queries_than_beirs_is_warned_of(data, caplog):
    for folder in find_sets(data, ["scifact", "mine"]):
        folder.load()
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith("scifact: 1 judged queries, BEIR's has 300")
