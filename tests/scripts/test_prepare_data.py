import json
from functools import partial

import pytest

from ragcun.data.beir import load_collection, pairs_from_collection
from ragcun.data.pairs import read_pairs, write_pairs

GENERATE = ("--documents", "wiki", "--generate_pairs", "--output_dir", "out")


@pytest.fixture
def run(run_script):
    """Run the script, which has to succeed; return what it says."""
    return partial(run_script, "prepare_data")


def test_python_docs_become_a_beir_folder_with_pairs(run, tmp_path):
    arguments = ("--documents", "python_docs", "--packages", "statistics", "argparse", "tqdm", "--max_documents", 20)
    said = run(*arguments, "--output_dir", tmp_path / "docs")
    splits = {split: load_collection(tmp_path / "docs", split) for split in ("train", "dev", "test")}
    assert [len(collection.queries) for collection in splits.values()] == [16, 2, 2]
    assert all(len(collection.documents) == 20 for collection in splits.values())
    for split in ("train", "dev"):
        pairs = read_pairs(tmp_path / "docs" / "pairs" / f"{split}.jsonl")
        assert list(pairs.rows()) == list(pairs_from_collection(splits[split]).rows())
    assert not (tmp_path / "docs" / "pairs" / "test.jsonl").exists()
    assert "20 documents" in said
    files = {path: path.read_bytes() for path in (tmp_path / "docs").rglob("*") if path.is_file()}
    run(*arguments, "--output_dir", tmp_path / "docs")
    assert {path: path.read_bytes() for path in (tmp_path / "docs").rglob("*") if path.is_file()} == files


def test_held_out_queries_are_the_dev_split(run, collection_folder, tmp_path):
    flags = ("--split_name", "train", "--hold_out", 0.2, "--add_negatives", "random", "--negatives_per_query", 2)
    said = run("--documents", collection_folder, *flags, "--output_dir", tmp_path / "out")
    train, dev = load_collection(tmp_path / "out", "train"), load_collection(tmp_path / "out", "dev")
    assert train.qrels | dev.qrels == load_collection(collection_folder, "train").qrels
    assert (len(train.qrels), len(dev.qrels)) == (24, 6)
    assert sorted(path.name for path in (tmp_path / "out" / "qrels").iterdir()) == ["dev.tsv", "train.tsv"]
    pairs = read_pairs(tmp_path / "out" / "pairs" / "train.jsonl")
    assert set(pairs.queries) == set(train.queries.values())
    assert (len(pairs), bool((pairs.negative_ids >= 0).all())) == (48, True)
    assert "24 in train, 6 in dev" in said


@pytest.fixture
def passages(tmp_path):
    lines = [f"Study {i} treats the wing. The wing of study {i} has lift. It ends with {i}." for i in range(10, 60)]
    (tmp_path / "wiki.txt").write_text("\n".join(lines))
    return tmp_path / "wiki.txt"


@pytest.mark.parametrize("mined", [True, False])
def test_the_founding_notes_command_gives_pairs_with_negatives_of_their_own_split(run, passages, tmp_path, mined):
    out, whole = tmp_path / "out", tmp_path / "out" / "data.json"
    command = ("--documents", passages, "--generate_pairs", "--num_pairs", 40, "--split", 0.8, 0.1, 0.1)
    command += ("--output", whole, "--output_dir", out, *(["--add_negatives"] if mined else []))
    said = run(*command)
    sets = [list(read_pairs(out / name).rows()) for name in ("train.json", "val.json", "test_eval.json")]
    assert [len(set(rows)) for rows in sets] == [32, 4, 4]
    for rows in sets:
        positives = {positive for _, positive, _ in rows}
        for query, positive, negative in rows:
            number = query.split()[1]
            assert query == f"Study {number} treats the wing."
            assert positive == f"The wing of study {number} has lift. It ends with {number}."
            assert negative in (positives - {positive} if mined else {None})
    assert list(read_pairs(whole).rows()) == [row for rows in sets for row in rows]
    assert f"{out / 'train.json'}: 32 pairs{'; 32 of 32 negatives' if mined else ''}" in said
    if mined:
        statistics = json.loads((out / "statistics.json").read_text())
        counts = {"repeated": 0, "near_duplicates": 0, "too_short": 0, "shared": 0, "unused": 10, "used": 40}
        assert statistics["documents"] == {"read": 50, **counts}
        assert statistics["splits"]["train"]["negatives"]["mined"] == 32
        assert statistics["settings"]["add_negatives"] == ["bm25"]
    files = {path: path.read_bytes() for path in out.iterdir()}
    run(*command)
    assert {path: path.read_bytes() for path in out.iterdir()} == files
    run(*command, "--seed", 1)
    assert whole.read_bytes() != files[whole]


def test_every_method_and_a_file_alone(run, passages, tmp_path):
    masking = ("--method", "mask_suffix", "--masked_share", 0.5, "--mask", "", "--split", 1, 0, 0)
    run("--documents", passages, "--generate_pairs", *masking, "--output", tmp_path / "all.jsonl")
    pairs = read_pairs(tmp_path / "all.jsonl")
    assert len(pairs) == 50
    assert all(positive.startswith(f"{query} ") for query, positive, _ in pairs.rows())
    assert {(len(query.split()), len(positive.split())) for query, positive, _ in pairs.rows()} == {(8, 16)}
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize("method", ["random", "bm25", "dense"])
def test_a_beir_folder_and_a_pairs_file_get_negatives(method, run, collection_folder, tiny_bert, tmp_path):
    more = ("--base_model", tiny_bert) if method == "dense" else ()
    free = () if method == "random" else ("--negative_margin", "none")
    add = ("--add_negatives", method, "--negatives_per_query", 2, *free, *more)
    run("--documents", collection_folder, *add, "--output", tmp_path / "a.jsonl")
    train = load_collection(collection_folder, "train")
    contents = {document.content for document in train.documents.values()}
    rows = list(read_pairs(tmp_path / "a.jsonl").rows())
    known = set(pairs_from_collection(train).rows())
    assert {(query, positive, None) for query, positive, _ in rows} == known
    assert all(negative in contents and (query, negative, None) not in known for query, _, negative in rows if negative)
    assert sum(negative is not None for *_, negative in rows) > len(known)
    (tmp_path / "pool.txt").write_text("\n".join(sorted(contents)[:40]))
    write_pairs(tmp_path / "p.json", sorted(known, key=repr))
    pairs = ("--pairs", tmp_path / "p.json", "--pool", tmp_path / "pool.txt", *add, "--output", tmp_path / "b.json")
    said = run(*pairs)
    rows = list(read_pairs(tmp_path / "b.json").rows())
    assert {negative for *_, negative in rows if negative} <= set(sorted(contents)[:40])
    assert f"{tmp_path / 'b.json'}: {len(known)} pairs" in said


def test_negatives_of_several_methods_are_mixed(run, collection_folder, tmp_path):
    mined = {}
    for methods in (["bm25"], ["random"], ["bm25", "random"]):
        add = ("--add_negatives", *methods, "--negative_margin", "none")[: -2 if methods == ["random"] else None]
        run("--documents", collection_folder, *add, "--output", tmp_path / "a.jsonl")
        mined["+".join(methods)] = list(read_pairs(tmp_path / "a.jsonl").rows())
    one, both = mined["bm25"], mined["bm25+random"]
    pairs = {row[:2] for row in one}
    assert set(one) < set(both)
    assert len(both) == len(set(both)) == len(one) + len(pairs)
    assert len(set(both) & set(mined["random"])) < len(both)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--documents", "wiki", "--output_dir", "out"), "add --generate_pairs"),
        (("--documents", "SOURCE"), "--output_dir is missing"),
        (("--documents", "wiki", "--generate_pairs"), "--output_dir and --output are both missing"),
        (("--documents", "wiki", "--generate_pairs", "--output", "out/x.csv"), "name the file .jsonl or .json"),
        (("--documents", "python_docs", "--generate_pairs", "--output_dir", "out"), "leave out --generate_pairs"),
        ((), "--documents or --pairs is missing"),
        (("--documents", "wiki", "--pairs", "pairs", "--output_dir", "out"), "contradict each other"),
        (("--pairs", "pairs", "--generate_pairs", "--output_dir", "out"), "leave out one of them"),
        (("--pairs", "pairs", "--add_negatives"), "--output_dir and --output are both missing"),
        (("--pairs", "pairs", "--output", "out/x.json"), "neither split nor given negatives"),
        (("--pairs", "pairs", "--add_negatives", "--output", "pairs"), "is the file that is read"),
        (("--pairs", "pairs", "--pool", "wiki", "--add_negatives", "--output_dir", "out"), "--pool goes with"),
        (("--pairs", "pairs", "--near_duplicates", "0.8", "--output_dir", "out"), "is of --generate_pairs"),
        ((*GENERATE, "--negatives_per_query", "2"), "is of --add_negatives; add that"),
        ((*GENERATE, "--add_negatives", "--base_model", "other"), "is of --add_negatives dense"),
        ((*GENERATE, "--add_negatives", "random", "--negative_ranks", "0", "5"), "needs a ranking"),
        (("--documents", "SOURCE", "--output_dir", "SOURCE"), "is the folder that is read"),
    ],
)
def test_wrong_input_is_one_sentence(fails_clearly, passages, collection_folder, tmp_path, arguments, message):
    (tmp_path / "pairs.jsonl").write_text('{"query": "q", "positive": "p"}\n')
    places = {"wiki": passages, "out": tmp_path / "out"}
    places |= {"pairs": tmp_path / "pairs.jsonl", "SOURCE": collection_folder}
    places |= {f"out/x{extension}": tmp_path / "out" / f"x{extension}" for extension in (".json", ".csv")}
    assert message in fails_clearly("prepare_data", *(places.get(argument, argument) for argument in arguments))
    assert not (tmp_path / "out").exists()
