"""The command ragcun: names of commands, their help, and wrong flags."""

import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from huggingface_hub import constants

import ragcun
from ragcun.cli.main import COMMANDS, load, main
from ragcun.embeddings.hub import load_sentence_transformer
from ragcun.errors import InputError
from ragcun.options import settings_of

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
REQUIREMENTS = SCRIPTS.with_name("requirements-min.txt")
IN_TURN = """
import json, sys
from ragcun.cli.main import main
first, second = json.loads(sys.argv[1])
main(first)
print("next")
print("next", file=sys.stderr)
main(second)
"""


def ends(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Return exit code, stdout and stderr of a command that exits."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    return caught.value.code, *capsys.readouterr()


def test_the_overview_names_every_command(capsys):
    code, shown, _ = ends(["--help"], capsys)
    assert code == 0
    for name, (summary, _) in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(summary)}$", shown, re.MULTILINE)
    assert ends([], capsys)[0] == 2
    code, shown, _ = ends(["download", "--help"], capsys)
    assert code == 0
    assert "download beir" in shown
    assert "train" not in shown.split()
    main(["--version"])
    assert capsys.readouterr().out == f"ragcun {ragcun.__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_refuses_a_wrong_flag(name, capsys):
    code, shown, _ = ends([*name.split(), "--help"], capsys)
    assert code == 0
    assert f"usage: ragcun {name} " in shown
    for text in re.split(r"\n  (?=-|\w)", shown)[1:]:
        assert text.count("(default: ") <= 1
        for metavar in re.findall(r"^--\w+ \[?([^\s\]]+)", text):
            assert re.fullmatch(r"N|X|NAME|FILE|DIR|PATH|TEXT|URL|HOST:PORT|\{.*\}", metavar.rstrip(",")), text
    code, _, said = ends([*name.split(), "--no_such_flag"], capsys)
    assert code == 2
    assert said.startswith(f"ragcun {name}: error: ")


@pytest.mark.parametrize(
    ("line", "facts"),
    [
        ("trian --epochs 3", ("'train'",)),
        ("download wiki", ("'download wikipedia'",)),
        ("tables papers --results x", ("'tables paper'",)),
        ("--epochs 3", ("ragcun --help",)),
        ("evaluate --model bm25 --model_path M", ("--model_path", "--model", "one")),
        ("evaluate", ("--model_path or --model",)),
        ("evaluate --model bm25 --batch_size 0", ("--batch_size", "at least 1", "0")),
        ("isotropy --model minilm --embeddings E --datasets toy", ("--model", "--embeddings")),
        ("search --model minilm --datasets toy --output_file R --workers 2 --address auto", ("--workers", "--address")),
        ("mteb --model minilm --datasets toy --tasks SciFact", ("--tasks", "--datasets")),
        ("calibrate --output_dir O", ("--corpus",)),
        ("calibrate --corpus C --output_dir O --query_split train", ("--query_split", "--queries")),
        (f"calibrate --corpus C --output_dir {__file__}", (f"{__file__} is a file",)),
        ("sweep --config C --output_dir O --resume --overwrite", ("--resume", "--overwrite")),
        ("prepare --documents D --generate_pairs --output_dir O --split 0.5 0.5", ("--split", "3")),
        ("download msmarco --output_dir O --dev_fraction 0.1 --num_dev 3", ("--dev_fraction", "--num_dev")),
        ("tables paper", ("--results",)),
        ("report", ("RUN_DIR",)),
    ],
)
def test_wrong_commands_and_flags_are_refused_before_anything_is_read(line, facts, capsys):
    code, _, said = ends(line.split(), capsys)
    assert code == 2
    assert len(said.splitlines()) == 1
    assert all(fact in said for fact in facts), said


@pytest.mark.parametrize(
    ("package", "extra", "line"),
    [
        ("matplotlib", "report", "report R"),
        ("matplotlib", "report", "tables sizes R --output O"),
        ("matplotlib", "report", "tables tradeoff --results R --isotropy I --output O"),
        ("matplotlib", "report", "isotropy --model minilm --texts T"),
        ("datasets", "data", "download msmarco --output_dir O --negatives none"),
        ("datasets", "data", "download wikipedia --output O.txt"),
        ("datasketch", "data", f"prepare --documents {REQUIREMENTS} --generate_pairs --output O.jsonl"),
        ("optuna", "sweeps", "sweep --config C --output_dir O"),
    ],
)
def test_a_command_says_which_extra_it_lacks(package, extra, line, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    code, _, said = ends(line.split(), capsys)
    assert code == 2
    assert f"{package} is not installed" in said
    assert f"pip install 'ragcun[{extra}]'" in said


def test_every_script_names_a_command():
    named = [re.search(r'script\("([a-z ]+)"', path.read_text()) for path in SCRIPTS.rglob("*.py")]
    assert {match and match[1] for match in named} <= set(COMMANDS)


def test_every_whole_number_has_bounds():
    for name in COMMANDS:
        whole = (one.field for one in settings_of(load(name)[1]).values() if one.kind is int)
        assert [field.name for field in whole if not field.metadata["bounds"]] == [], name


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("tra", {"train"}),
        ("cache ", {"size", "clear"}),
        ("tables comparison --met", {"--metric"}),
        ("train --qu", {"--queries", "--query_embedding", "--quiet"}),
        ("train --corpus ", set()),
    ],
)
def test_bash_completes_commands_and_flags(line, offered, capsys):
    main(["completion", "bash"])
    ask = f'COMP_LINE="ragcun {line}"; _ragcun ragcun "${{COMP_LINE##* }}" x; echo "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", capsys.readouterr().out + ask], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == offered


def test_the_cache_is_measured_and_deleted_and_nothing_else_is(base, tmp_path, capsys):
    def shown(*words: str) -> dict[str, Any]:
        main(["cache", *words, "--cache_dir", str(tmp_path), "--json"])
        return json.loads(capsys.readouterr().out)

    cache = ragcun.EmbeddingCache(base, tmp_path)
    cache.encode(["word1", "word2 word3"], "document")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "base.json").write_text('{"fingerprint": "x"}')
    for derived in ("models", "openvino/x"):
        (tmp_path / derived).mkdir(parents=True)
    (one,) = shown("size")["bases"]
    assert (one["base"], one["texts"], one["folder"]) == (base.name, 2, str(cache.folder))
    assert one["bytes"] == sum(file.stat().st_size for file in cache.folder.iterdir())
    assert shown("clear") == {**shown("size"), "deleted": False}
    for wrong in (tmp_path / "absent", cache.folder / "keys.bin"):
        code, _, said = ends(["cache", "clear", "--cache_dir", str(wrong), "--yes"], capsys)
        assert (code, str(wrong) in said) == (2, True)
    with FileLock(cache.folder / "encoding.lock"):
        assert ends(["cache", "clear", "--cache_dir", str(tmp_path), "--yes"], capsys)[0] == 2
    assert cache.folder.exists()
    assert shown("clear", "--yes")["deleted"]
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
    assert shown("size")["bytes"] == 0


def test_doctor_names_versions_cache_and_hub(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RAGCUN_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    main(["doctor", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["ragcun"], found["torch"]) == (ragcun.__version__, version("torch"))
    assert (found["cache"], found["cache_size"]) == (str(tmp_path), "0.0 MB")
    assert found["model_hub"].startswith("offline")
    main(["doctor"])
    assert f"\ncache: {tmp_path}\n" in capsys.readouterr().out


def test_a_torch_that_transformers_refuses_is_named(tiny_bert, monkeypatch, capsys):
    monkeypatch.setattr("transformers.utils.import_utils.is_torch_available", lambda: False)
    main(["doctor"])
    (problem,) = re.findall("problem: (.*)", capsys.readouterr().out)
    assert f"torch {version('torch')}" in problem
    with pytest.raises(InputError, match=re.escape(problem)):
        load_sentence_transformer(tiny_bert, tiny_bert)


@pytest.mark.slow
def test_a_quiet_command_prints_its_result_alone_and_a_file_gets_no_progress_bar(tiny_bert, tmp_path):
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps({"query": f"word{i}", "positive": f"word{i} x"}) + "\n" for i in range(40)))

    settings = {"train_data": pairs, "base_model": tiny_bert, "output_dir": tmp_path / "run", "device": "cpu"}
    train = ["train", *(word for name, value in settings.items() for word in (f"--{name}", str(value)))]
    commands = [train, [*train, "--overwrite", "--quiet", "--json"]]
    done = subprocess.run(
        [sys.executable, "-c", IN_TURN, json.dumps(commands)], capture_output=True, text=True, check=True
    )
    (shown, out), (said, quiet) = (each.split("next\n") for each in (done.stdout, done.stderr))
    assert "InfoNCE" in said
    assert not re.search(r"%\||\r|\x1b", said)
    assert f"ragcun evaluate --model_path {tmp_path / 'run' / 'best_model'}" in shown.splitlines()[-1]
    assert quiet == ""
    assert json.loads(out)["checkpoint"] == str(tmp_path / "run" / "best_model")
