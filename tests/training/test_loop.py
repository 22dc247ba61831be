"""The training loop, on a tiny BERT and a toy collection: what it learns, repeats and writes."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ragcun import MPNetLeJEPAIG, RetrievalEncoder, TextBase, TrainConfig, fit
from ragcun.data.beir import load_collection, pairs_from_collection
from ragcun.models.checkpoint import WEIGHTS
from ragcun.options import read_yaml
from ragcun.training.batches import PairSource, mine_pools
from ragcun.training.step import ema_decay, warmup_cosine
from ragcun.training.weights import WeightAverage, share_of_trained
from tests.training.runs import DEFAULTS, PLAIN, assert_equal, assert_same, assert_same_run, newest, rows_of, tensors_of


@pytest.fixture
def settings(settings: dict[str, Any]) -> dict[str, Any]:
    return settings | PLAIN | {"projection_learning_rate": 1e-2}


def test_dev_collection_chooses_the_best_epoch(train, collection_folder):
    result = train(dev_beir=str(collection_folder), epochs=5, save_interval=2)
    run = result.checkpoint.parent
    scores = {row["epoch"]: row["dev"]["NDCG@10"] for row in rows_of(run, "epoch")}
    assert list(scores) == [0, 1, 2, 3, 4, 5]
    assert result.score == max(scores.values())
    assert result.best_epoch == min(epoch for epoch, score in scores.items() if score == result.score)
    (base,) = rows_of(run, "base")
    assert base["dev"]["NDCG@10"] == result.base_score == pytest.approx(scores[0])
    two, four = (tensors_of(run / name) for name in ("epoch-2", "epoch-4"))
    assert len(list(run.glob("epoch-*"))) == 2
    assert any(not torch.equal(value, four[name]) for name, value in two.items())
    if result.best_epoch in (2, 4):
        assert_same(run / "best_model", run / f"epoch-{result.best_epoch}")


@pytest.mark.parametrize(
    "changes",
    [
        DEFAULTS,
        DEFAULTS | {"freeze_base": False, "lexical_dim": 8, "mined_negatives": 2},
        DEFAULTS | {"lora_rank": 2, "trained_share": 0.5, "mined_negatives": 2},
    ],
)
def test_negatives_mined_again_are_those_of_the_weights_at_that_epoch(train, tmp_path, collection_folder, changes):
    """Of the weights that are saved then; until then the run is one that mines once."""
    mined = {"mined_first": 3, "mined_last": 20, "base_learning_rate": 1e-3}
    common = changes | mined | {"epochs": 4, "save_interval": 2}
    for name, every in (("once", 0), ("again", 2)):
        train(name, mine_every=every, **common)
    once, again = tmp_path / "once", tmp_path / "again"
    same = [one == other for one, other in zip(rows_of(once, "step"), rows_of(again, "step"), strict=True)]
    assert same == [True] * 8 + [False] * 8
    data = pairs_from_collection(load_collection(collection_folder, "train"), whole_corpus=True)
    pools = []
    for folder in (again / "epoch-2", again / "epoch-4"):
        encoder = RetrievalEncoder.from_pretrained(folder, "cpu")
        source = PairSource(data, encoder.base, torch.device("cpu"))
        pools.append(mine_pools(TrainConfig("t", **common), encoder, source).mined)
    kept = tensors_of(newest(again))["pools.safetensors:mined"].numpy()
    np.testing.assert_array_equal(kept, pools[0])
    assert (kept != pools[1]).mean() > 0.1


def test_rows_hold_unweighted_terms_and_scheduled_rates_and_validation_chooses_the_lowest(train, collection_folder):
    weights = {"contrastive": 0.5, "isotropy": 0.2, "reg": 0.1, "predictive": 2.0}
    rates = {"base": 1e-4, "head": 1e-2, "predictor": 1e-3}
    flags: dict[str, Any] = {f"lambda_{name}": weight for name, weight in weights.items()}
    flags |= {"base_learning_rate": 1e-4, "projection_learning_rate": 1e-2, "predictor_learning_rate": 1e-3}
    result = train(val_data=str(collection_folder), freeze_base=False, use_predictor=True, warmup_steps=5, **flags)
    steps, epochs = (rows_of(result.checkpoint.parent, kind) for kind in ("step", "epoch"))
    assert [row["step"] for row in steps] == list(range(1, 13))
    for row in steps:
        factor = warmup_cosine(row["step"] - 1, 12, 5)
        expected = {name: rate * factor for name, rate in rates.items()}
        assert row["learning_rate"] == pytest.approx(expected, rel=1e-12)
        assert row["grad_norm"] > 0
    losses = [(row["total"], row["terms"]) for row in steps] + [(row["val_total"], row["val_terms"]) for row in epochs]
    for total, terms in losses:
        assert set(terms) == set(weights)
        assert total == pytest.approx(sum(weights[name] * value for name, value in terms.items()), rel=1e-5)
    best = min(epochs, key=lambda row: (row["val_total"], row["epoch"]))
    assert (result.best_epoch, result.score) == (best["epoch"], -best["val_total"])


@pytest.mark.parametrize(("decay", "share"), [(0.9, 0.3), (0.99, None)], ids=str)
def test_what_is_saved_is_the_average_and_training_does_not_notice(
    train, tmp_path, collection_folder, monkeypatch, decay, share
):
    updates: list[tuple[int, WeightAverage]] = []
    real = WeightAverage.update

    def update(self: WeightAverage, step: int) -> None:
        real(self, step)
        updates.append((step, self))

    common = DEFAULTS | {"save_interval": 1, "projection_learning_rate": 3e-2}
    train("plain", **common | {"average_decay": 0.0, "trained_share": 1.0, "dev_beir": str(collection_folder)})
    monkeypatch.setattr(WeightAverage, "update", update)
    result = train("kept", **common | {"average_decay": decay, "trained_share": share})
    average = updates[0][1]
    assert (result.best_epoch, result.criterion, result.score) == (3, "last epoch", None)
    assert updates == [(step, average) for step in range(1, 13)]
    assert (average.decay, average.share) == (decay, share or share_of_trained(30))
    saved, last = load_file(result.checkpoint / WEIGHTS), load_file(newest(tmp_path / "kept") / "model.safetensors")
    expected = average.weights()
    assert_equal({name: saved[name] for name in expected}, expected)
    assert not any(torch.allclose(value, last[name], rtol=1e-3, atol=1e-3) for name, value in expected.items())
    assert_same(tmp_path / "kept" / "best_model", tmp_path / "kept" / "epoch-3")
    plain, kept = (tensors_of(newest(tmp_path / name)) for name in ("plain", "kept"))
    same = [name for name in plain if name.startswith(("model", "optimizer"))]
    assert len(same) > 4
    assert_equal({name: plain[name] for name in same}, {name: kept[name] for name in same})


@pytest.mark.parametrize(("accumulated", "schedule"), [(1, "constant"), (3, "cosine")])
def test_the_target_follows_every_optimiser_step_once(train, monkeypatch, accumulated, schedule):
    """`tests/models` has what a target's step is."""
    decays = list[float]()
    monkeypatch.setattr(MPNetLeJEPAIG, "after_step", lambda encoder, decay: decays.append(decay))
    settings = {"ema_decay": 0.8, "ema_schedule": schedule, "gradient_accumulation_steps": accumulated}
    result = train(system="jepa", lambda_predictive=1.0, **settings)
    assert result.steps == 3 * math.ceil(4 / accumulated)
    assert decays == [ema_decay(step, result.steps, 0.8, schedule) for step in range(1, result.steps + 1)]


STAYS = ("embeddings.", "layer.0.", "layer.1.", "pooler", "key.bias")
"""What the early layers are; and where no gradient arrives."""


@pytest.mark.parametrize(
    "changes", [{"freeze_base": True}, {"freeze_early_layers": 2, "gradient_checkpointing": True}], ids=str
)
def test_what_is_frozen_stays_bit_for_bit_and_the_rest_moves(train, tiny_bert, texts, changes):
    result = train(base_learning_rate=1e-3, epochs=1, **changes)
    base, trained = TextBase.load(tiny_bert, device="cpu"), RetrievalEncoder.from_pretrained(result.checkpoint, "cpu")
    before, after = base.state_dict(), trained.base.state_dict()
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name]) and "key.bias" not in name}
    later = {name for name in before if not any(part in name for part in STAYS)}
    assert moved == (set() if "freeze_base" in changes else later)
    assert (trained.base.fingerprint() == base.fingerprint()) == (not moved)
    assert not np.allclose(trained.encode_query(texts[:3]), base.untouched_array(base.encode(texts[:3], "query")))


def test_training_continues_from_a_checkpoint(train, collection_folder):
    first = train("first", output_dim=8, use_predictor=True, lambda_predictive=0.5)
    still = {"projection_learning_rate": 0.0, "dev_beir": str(collection_folder), "epochs": 1}
    second = train("second", load_checkpoint=str(first.checkpoint), **still)
    assert (second.best_epoch, second.steps) == (0, 4)
    assert_equal(*(load_file(run.checkpoint / WEIGHTS) for run in (first, second)))
    third = train(
        "third", load_checkpoint=str(first.checkpoint.parent), system="asymmetric", base_model="minilm", **still
    )
    assert_same(second.checkpoint, third.checkpoint)
    configs = [read_yaml(run.checkpoint.parent / "config.yaml") for run in (first, second, third)]
    for name in ("system", "base_model", "output_dim", "head", "use_predictor"):
        assert len({config[name] for config in configs}) == 1, name
    assert f"base_model: {configs[0]['base_model']}\n" in (third.checkpoint / "README.md").read_text()


def test_flags_without_effect_are_named_also_from_a_checkpoint(train, settings, tmp_path, caplog):
    first = train("first", epochs=1).checkpoint
    config = TrainConfig(**settings, output_dir=str(tmp_path / "second"), load_checkpoint=str(first))
    vars(config)["given"] = frozenset({"margin"})
    fit(config)
    assert "--margin: no effect" in caplog.text


@pytest.mark.parametrize("changes", [{}, {"freeze_base": False}], ids=["cached", "live"])
def test_half_precision_on_a_cpu(train, tmp_path, changes):
    common = {"use_predictor": True, "lambda_predictive": 0.5, "dropout": 0.0, **changes}
    train("full", **common)
    train("half", mixed_precision="bf16", **common)
    full, half = (rows_of(tmp_path / name, "step") for name in ("full", "half"))
    assert all(math.isfinite(row["total"]) for row in half)
    assert half[0]["total"] == pytest.approx(full[0]["total"], rel=0.03)
    assert half[-1]["total"] != full[-1]["total"]
    assert all(tensor.dtype == torch.float32 for tensor in load_file(tmp_path / "half/best_model" / WEIGHTS).values())


@pytest.mark.skipif(
    not hasattr(torch.compiler, "set_stance"), reason="an older torch compiles with a C++ compiler alone"
)
def test_compiling_changes_nothing(train, tmp_path):
    """Inner products see where embeddings lie; else the last bias moves by rounding errors alone, enlarged by Adam.

    The graphs are those of ``--compile``, with gradients; their C++ code, which takes half a minute, is left out.
    """
    common = {"epochs": 1, "batch_size": 30, "dropout": 0.0, "distance": "dot", "lambda_isotropy": 0.0}
    train("plain", **common)
    with torch.compiler.set_stance(force_backend="aot_eager"):
        compiled = train("compiled", compile=True, **common)
    first, second = (rows_of(tmp_path / name, "step")[0]["total"] for name in ("plain", "compiled"))
    assert second == pytest.approx(first, rel=1e-4)
    one, other = tensors_of(tmp_path / "plain" / "best_model"), tensors_of(compiled.checkpoint)
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=1e-5, rtol=0, msg=name)


@pytest.mark.parametrize("changes", [{"freeze_base": False, "dropout": 0.3}, DEFAULTS])
def test_a_seed_decides_everything(train, tmp_path, changes):
    """And checkpoints that are kept on the way change nothing."""
    for name, seed, kept in (("a", 5, 0), ("b", 5, 1), ("c", 6, 0)):
        torch.manual_seed(kept)
        train(name, **{"head": "mlp", "average_decay": 0.9, **changes, "seed": seed, "save_interval": kept})
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert len(list((tmp_path / "b").glob("epoch-*"))) == 3
    parts = [load_file(tmp_path / name / "best_model" / WEIGHTS) for name in ("a", "c")]
    assert not any(torch.equal(parts[0][name], parts[1][name]) for name in parts[0])


def test_callbacks_receive_every_row_as_it_is_written(settings, tmp_path, collection_folder):
    seen: list[dict[str, Any]] = []
    written: list[int] = []
    run = tmp_path / "run"
    config = settings | {"output_dir": str(run), "dev_beir": str(collection_folder)}
    fit(TrainConfig(**config), callbacks=[seen.append, lambda row: written.append(len(rows_of(run)))])
    assert [{name: value for name, value in row.items() if name != "seconds"} for row in seen] == rows_of(run)
    assert written == [*range(1, len(seen) + 1)]
    assert {row["kind"] for row in seen} >= {"step", "epoch"}


def test_texts_are_encoded_once_for_all_runs(train, tmp_path, collection_folder, monkeypatch):
    seen: list[str] = []
    real = TextBase.encode
    monkeypatch.setattr(TextBase, "encode", lambda self, some, *a, **b: seen.extend(some) or real(self, some, *a, **b))
    common = {"cache_dir": str(tmp_path / "cache"), "dev_beir": str(collection_folder), "epochs": 2}
    train("a", **common)
    train("b", seed=3, output_dim=8, normalize_embeddings=False, **common)
    assert 0 < len(seen) == len(set(seen))
