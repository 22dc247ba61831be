"""What files, names and addresses from others may not do."""

import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ragcun import InputError, RetrievalEncoder, TextBase, load_collection
from ragcun.data.beir_sets import find_sets
from ragcun.environment import environment
from ragcun.models.checkpoint import CONFIG, OWN_SUM, description_digest, file_digests

ROOT = Path(__file__).resolve().parents[1]
UNSAFE = re.compile(
    r"(trust_remote_code|allow_pickle|shell)=(?!False\b)|weights_only=(?!True\b)|\.extractall\(|\btorch\.load\("
    r"|\byaml\.(unsafe_load|full_load)\(|\bos\.(system|popen)\(|(?<![.\w])(eval|exec|__import__)\("
    r"|^\s*(import|from) (c?[pP]ickle|dill|joblib|shelve|marshal|cloudpickle)\b",
    re.MULTILINE,
)
"""What could run or unpack what comes from outside; ruff and bandit know some of it, not the first three."""


def test_no_source_runs_or_unpacks_what_comes_from_outside() -> None:
    sources = [path for folder in ("ragcun", "scripts", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    assert [str(path) for path in sources if UNSAFE.search(path.read_text(encoding="utf-8"))] == []
    unsafe = ["import pickle", "from joblib import x", "torch.load(p)", "x = eval(t)", "run(c, shell=flag)"]
    unsafe += ["os.system(c)", "z.extractall(f)", "S(n, trust_remote_code=True)", "np.load(p, allow_pickle=True)"]
    unsafe += ["f(weights_only=no)"]
    safe = ["model.eval()", "run(['git'], shell=False)", "yaml.safe_load(x)", "np.load(x, allow_pickle=False)"]
    assert [line for line in unsafe + safe if UNSAFE.search(line)] == unsafe, "the rule finds these and nothing else"


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module ``evil_code`` that leaves a mark where it is imported; returns where the mark would be."""
    mark = tmp_path / "mark"
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "evil_code.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass Evil: pass\n")
    monkeypatch.syspath_prepend(tmp_path / "code")
    return mark


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(change(content)))


def with_first_module(**values: object) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "modules.json", lambda modules: [{**modules[0], **values}, *modules[1:]])


def as_router(kind: str, inner: str = "inner") -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        with_first_module(type="sentence_transformers.base.modules.router.Router", path="router")(folder)
        config = {"types": {inner: kind}, "structure": {"query": [inner]}, "parameters": {}}
        edit(folder / "router" / "router_config.json", lambda _: config)

    return change


def with_activation(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = next(folder.glob("*_Dense/config.json"), folder / "9_Dense" / "config.json")
        edit(path, lambda config: {**config, "activation_function": name})
        module = {"idx": 9, "name": "9", "path": path.parent.name}
        kind = "sentence_transformers.base.modules.dense.Dense"
        edit(folder / "modules.json", lambda modules: [*modules, {**module, "type": kind}])

    return change


def linked(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        outside = folder.parent / "outside"
        shutil.move(folder / name, outside)
        (folder / name).symlink_to(outside)

    return change


BUILT_IN = "sentence_transformers.base.modules.normalize.Normalize"
HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "a function": (with_first_module(type="os.system"), "names the class 'os.system'"),
    "a module of others": (with_first_module(type="evil_code.Evil"), "names the class 'evil_code.Evil'"),
    "a class that is no text": (with_first_module(type=["x"]), "names the class"),
    "a name that only begins alike": (with_first_module(type="sentence_transformers_evil.X"), "names the class"),
    "modules that are none": (lambda folder: (folder / "modules.json").write_text("{}"), "not a list of modules"),
    "a path upwards": (with_first_module(path="../../outside"), "leads out of its folder"),
    "a hidden path upwards": (with_first_module(path="1_Pooling/../../outside"), "leads out of its folder"),
    "an absolute path": (with_first_module(path="/etc"), "leads out of its folder"),
    "a path of Windows": (with_first_module(path="..\\outside"), "leads out of its folder"),
    "a path that is no text": (with_first_module(path=3), "leads out of its folder"),
    "a router to a module of others": (as_router("evil_code.Evil"), "names the class 'evil_code.Evil'"),
    "a router upwards": (as_router(BUILT_IN, "../../outside"), "leads out of its folder"),
    "an activation of others": (with_activation("evil_code.Evil"), "names the activation 'evil_code.Evil'"),
    "an activation that is a function": (with_activation("os.system"), "names the activation 'os.system'"),
    "a link to a file outside": (linked("config.json"), "leads out of its folder"),
    "a link to a folder outside": (linked("1_Pooling"), "leads out of its folder"),
}


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_model_or_checkpoint_is_refused_before_anything_is_imported(
    name: str, signed: bool, tiny_bert: str, checkpoint: Path, tmp_path: Path, evil: Path
) -> None:
    """Whoever changes a checkpoint can write new checksums: these are no defence, the other rules are."""
    folder = shutil.copytree(checkpoint if signed else tiny_bert, tmp_path / "model")
    change, message = HOSTILE[name]
    change(folder)
    if signed:
        sign(folder, file_digests(folder))
    with pytest.raises(InputError, match=message) as caught:
        RetrievalEncoder.from_pretrained(folder, "cpu") if signed else TextBase.load(str(folder), device="cpu")
    assert "\n" not in str(caught.value)
    assert "evil_code" not in sys.modules
    assert not evil.exists()


def sign(folder: Path, digests: dict[str, str]) -> None:
    """Write a checkpoint's checksums anew."""

    def change(description: dict[str, Any]) -> dict[str, Any]:
        signed = {**description, "files_blake2b": {**description["files_blake2b"], **digests}}
        return {**signed, OWN_SUM: description_digest(signed)}

    edit(folder / CONFIG, change)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "..", "a/../../outside"])
def test_a_checkpoint_lists_no_file_outside_itself(name: str, checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    (tmp_path / "outside").write_text("x")
    sign(folder, {name: "0"})
    with pytest.raises(InputError, match="leads out of its folder"):
        RetrievalEncoder.from_pretrained(folder, "cpu")


def test_the_hubs_cache_of_links_is_read(tiny_bert: str, tmp_path: Path) -> None:
    """There a model's files are links from ``snapshots/<commit>`` to ``blobs`` beside it."""
    snapshot, blobs = tmp_path / "models--x" / "snapshots" / "abc", tmp_path / "models--x" / "blobs"
    shutil.copytree(tiny_bert, snapshot)
    blobs.mkdir()
    for number, path in enumerate(path for path in sorted(snapshot.rglob("*")) if path.is_file()):
        shutil.move(path, blobs / str(number))
        path.symlink_to(os.path.relpath(blobs / str(number), path.parent))
    assert TextBase.load(str(snapshot), device="cpu").dimension == 16


@pytest.mark.parametrize("name", ["../../etc", "/etc", "..", ".", "toy/../..", "toy/../../secret", "\0", "toy\0"])
def test_names_of_sets_and_splits_do_not_leave_their_folder(name: str, collection_folder: Path) -> None:
    data = collection_folder.parent
    with pytest.raises(InputError, match="no collection"):
        find_sets(data, [name])
    with pytest.raises(InputError, match="no judgments for the split"):
        load_collection(collection_folder, name)
    with pytest.raises(InputError, match="no judgments for the split"):
        find_sets(data, ["toy"], name)


def test_the_environment_is_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {"HF_TOKEN": "hf_abcdefghijklmnopqrstuvwxyz", "RAGCUN_BEIR_MIRROR": "https://me:word@host"}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    recorded = json.dumps(environment("cpu"))
    assert [part for part in ("hf_abcdef", "word") if part in recorded] == []
