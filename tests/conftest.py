"""What tests share: real data where it is at hand, the real MiniLM, and a tiny random BERT made on the spot."""

from __future__ import annotations

import os
import random
import runpy
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from ragcun.embeddings.text_base import TextBase

ROOT = Path(__file__).resolve().parents[1]
WORDS = [f"word{i}" for i in range(200)]
# How long an example takes says more about the machine than about the code; tests/fuzz has a limit of its own.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")
SWEPT = {"lambda_isotropy": {"values": [0.0, 1.0, 10.0]}, "isotropy": {"values": ["covariance", "gor"]}}


def pytest_configure(config: pytest.Config) -> None:
    """Let xdist hand out files in the order of `pytest_collection_modifyitems`, not the many small tests first."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with slow tests first, so that no process waits for another at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real collections; skips where there is none."""
    folder = Path(os.environ.get("RAGCUN_DATA") or ROOT.parent / "shared" / "data")
    if not (folder / "scifact" / "corpus.jsonl").exists():
        pytest.skip("no real collections here: set RAGCUN_DATA to a folder of BEIR sets that holds scifact")
    return folder


@pytest.fixture(scope="session", autouse=True)
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Cache of base vectors for this session; RAGCUN_TEST_CACHE keeps one between sessions."""
    kept = os.environ.get("RAGCUN_TEST_CACHE")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAGCUN_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def unsynced() -> Iterator[None]:
    """Leave out fsync, milliseconds a file: what tests write need not outlive a power cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


def save_tiny_bert(folder: Path, layers: int = 3, words: Sequence[str] = WORDS, dim: int = 16) -> str:
    """Write a sentence-transformers model into a folder: a random BERT, mean pooling, Normalize."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    bert = folder.with_name(f"{folder.name}-bert")
    bert.mkdir(parents=True)
    (bert / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    BertTokenizerFast.from_pretrained(bert, model_max_length=32).save_pretrained(bert)
    torch.manual_seed(0)
    sizes = {"vocab_size": len(words) + 5, "hidden_size": dim, "intermediate_size": 32, "max_position_embeddings": 64}
    depth = {"num_hidden_layers": layers, "num_attention_heads": 2}
    config = BertConfig(**sizes, **depth, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    BertModel(config).save_pretrained(bert)
    transformer = Transformer(str(bert), max_seq_length=32)
    model = SentenceTransformer(modules=[transformer, Pooling(dim), Normalize()], device="cpu")
    model.save_pretrained(str(folder), create_model_card=False)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a sentence-transformers model: a random BERT (16 dimensions, 3 layers), mean pooling, Normalize."""
    return save_tiny_bert(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def base(tiny_bert: str) -> TextBase:
    """The tiny BERT as a base, on the CPU."""
    from ragcun.embeddings.text_base import TextBase

    return TextBase.load(tiny_bert, device="cpu")


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Texts of 3 to 12 words of the tiny BERT's vocabulary, all distinct."""
    generator = random.Random(0)
    made = {" ".join(generator.choices(WORDS, k=generator.randint(3, 12))) for _ in range(300)}
    return sorted(made)


@pytest.fixture(scope="session")
def collection_folder(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Path:
    """BEIR folder ``toy``: 120 documents; 30 train, 20 dev and 20 test queries, the first words of a document each."""
    from ragcun.data.beir import Document, write_collection

    documents = {f"d{i}": Document("", text) for i, text in enumerate(texts[:120])}
    names = list(documents)
    queries = {f"q{i}": " ".join(documents[names[i]].text.split()[:3]) for i in range(70)}
    split_of = {"train": range(30), "dev": range(30, 50), "test": range(50, 70)}
    qrels = {split: {f"q{i}": {names[i]: 1} for i in numbers} for split, numbers in split_of.items()}
    folder = tmp_path_factory.mktemp("collections") / "toy"
    write_collection(folder, documents, queries, qrels)
    return folder


@pytest.fixture
def write_sweep(tmp_path: Path, tiny_bert: str, collection_folder: Path) -> Callable[..., Path]:
    """Write the YAML file of a grid on the toy collection; arguments replace or (None) drop its parts."""

    def write(base: dict[str, Any] | None = None, **parts: Any) -> Path:
        ours: dict[str, Any] = {"base_model": tiny_bert, "train_data": str(collection_folder), "device": "cpu"}
        ours |= {"dev_beir": str(collection_folder), "epochs": 1, "batch_size": 8, "projection_learning_rate": 0.01}
        ours = {name: value for name, value in (ours | (base or {})).items() if value is not None}
        sweep = {"study": "toy", "sampler": "grid", "seeds": [1, 2], "base": ours, "parameters": SWEPT} | parts
        path = tmp_path / "sweep.yaml"
        path.write_text(
            yaml.safe_dump({name: value for name, value in sweep.items() if value is not None}, sort_keys=False)
        )
        return path

    return write


@pytest.fixture(scope="session")
def save_checkpoint(tiny_bert: str) -> Callable[[Path, int], Path]:
    """Save an encoder whose head has moved away from the identity, at random."""

    from ragcun import IsotropicGaussianEncoder, TextBase
    from tests.models.helpers import moved

    def save(folder: Path, seed: int) -> Path:
        encoder = IsotropicGaussianEncoder(TextBase.load(tiny_bert, device="cpu"), head="mlp", use_predictor=True)
        moved(encoder, seed=seed).save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="session")
def checkpoint(save_checkpoint: Callable[[Path, int], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a checkpoint; to be read only."""
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint") / "best_model", 1)


@pytest.fixture
def run_any(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run ``scripts/<name>.py`` with arguments; return exit code, stdout and stderr."""

    def run(name: str, *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [f"{Path(name).name}.py", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            runpy.run_path(str(ROOT / "scripts" / f"{name}.py"), run_name="__main__")
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def run_script(run_any: Callable[..., tuple[int, str, str]]) -> Callable[..., str]:
    """Run a script that has to succeed; return what it prints."""

    def run(name: str, *arguments: object) -> str:
        code, out, err = run_any(name, *arguments)
        assert code == 0, err
        return out

    return run


@pytest.fixture
def fails_clearly(run_any: Callable[..., tuple[int, str, str]]) -> Callable[..., str]:
    """Run a script that has to fail: exit code 2, one sentence as the last line of stderr; return that sentence."""

    def run(name: str, *arguments: object) -> str:
        code, out, err = run_any(name, *arguments)
        last = err.strip().splitlines()[-1]
        assert code == 2, out + err
        assert "Traceback" not in err
        assert last.startswith(f"{Path(name).name}.py: error: "), err
        return last

    return run
