"""A corpus that means harm goes through training, evaluation, isotropy and report: handled, or refused."""

import json

from ragcun.io import read_json
from tests.data.test_pairs import write_rows
from tests.reporting.html.conftest import Page

IDS = [
    "../../x", "/etc/passwd", "a/b", "..", ".", "C:\\x", "<script>alert(1)</script>", "\"><img/src=x/onerror=alert(1)>",
    "d\u202egnp.exe", "=1+1", "|cell|", "{{7*7}}", "{%raw%}", "%s%n", "$(touch${IFS}x)", "`id`", "é", "日本", "\x00",
    "a\x00b", "-rf", "~", "*", "'", "&lt;", "x" * 5000,
]  # fmt: skip
TEXTS = [
    "<script>document.title='owned'</script> word1", "</pre></td><img src=x onerror=alert(1)>", "{{ 7 * 7 }} word2",
    "word3 \u202e\u2066 backwards", "nul \x00 inside word4", "=cmd|' /C calc'!A0", "| a | table |\n|---|",
    "\u200b\u2028\r\n\t",
    "https://me:word@host/x word5", "word6 " * 3000, "a\u0301" * 500, "\U0001f600 word7", "%(levelname)s {0} %s",
    "word8 \\ud800",
]  # fmt: skip


def write_collection(folder, ids, texts):
    """Write a BEIR folder byte by byte, so that nothing of ours fixes it first."""
    documents = [{"_id": key, "title": texts[i % len(texts)][:40], "text": f"word{i} {texts[i % len(texts)]}"}
                 for i, key in enumerate(ids)]  # fmt: skip
    queries = [f"q{key}" for key in ids]
    (folder / "qrels").mkdir(parents=True)
    write_rows(folder / "corpus.jsonl", documents)
    asked = [{"_id": query, "text": f"word{i} {texts[i % len(texts)]}"} for i, query in enumerate(queries)]
    write_rows(folder / "queries.jsonl", asked)
    for split in ("train", "test"):
        rows = "".join(f"{q}\t{key}\t1\n" for q, key in zip(queries, ids, strict=True) if '"' not in q + key)
        (folder / "qrels" / f"{split}.tsv").write_text(rows, encoding="utf-8")
    return folder


def everything_outside(root, inside):
    return sorted(str(path) for path in root.rglob("*") if inside not in path.parents and path != inside)


def test_a_hostile_corpus_does_nothing(run_script, evaluate, tiny_bert, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = write_collection(tmp_path / "data" / "<b>toy", IDS, TEXTS)
    run = tmp_path / "work" / "<i>run"
    before = everything_outside(tmp_path, tmp_path / "work")
    flags = ("--base_model", tiny_bert, "--device", "cpu", "--epochs", 1, "--batch_size", 8, "--output_dir", run)
    run_script("train", "--train_data", place, *flags)
    collections, model = ("--datasets", place.name, "--data_dir", place.parent), ("--model_path", run / "best_model")
    results, _ = evaluate(*model, *collections, "--baseline", "bm25", output=run / "results.json")
    run_script("compute_isotropy", *model, *collections, "--device", "cpu", "--k", 3, "--output_dir", run / "isotropy")
    assert run_script("report", run) == f"report: {run / 'report.html'}\n"
    page = (run / "report.html").read_text(encoding="utf-8")
    assert not Page(run / "report.html").all("script")
    assert "&lt;b&gt;toy" in page
    systems = (results, results["untouched_base"], results["baselines"]["bm25"])
    figures = [f"{system['datasets'][place.name]['NDCG@10']:.4f}" for system in systems]
    digests = read_json(run / "manifest.json")["data_sha256"].values()
    assert [shown for shown in (*figures, *digests, "Against the untouched base") if shown not in page] == []
    assert page.count("data:image/png;base64,") > 2
    assert not {"\u202e", "\u2066", "\x00", "\u200b"} & set(page)
    assert "49 word2" not in page
    assert everything_outside(tmp_path, tmp_path / "work") == before


def test_a_line_of_ten_megabytes_is_a_line(evaluate, tmp_path):
    folder = write_collection(tmp_path / "data" / "toy", ["d0", "d1"], ["word1"])
    with (folder / "corpus.jsonl").open("a") as file:
        file.write(json.dumps({"_id": "long", "text": "word1 " * 1_700_000}) + "\n")
    evaluate("--model", "bm25", "--data_dir", tmp_path / "data")
