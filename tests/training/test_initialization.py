"""Initial weights, mined negatives and what is mixed in: against the closed forms on the same vectors."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import ragcun
from ragcun import InputError, PairDataset, RetrievalEncoder, TrainConfig
from ragcun.embeddings.precomputed import VectorStore
from ragcun.models.heads import preserving_projection
from ragcun.models.whitening import EXPONENT, Calibration
from ragcun.training.batches import PairSource, mine, mine_pools
from ragcun.training.selection import mixed_with_base
from ragcun.training.setup import build_encoder
from ragcun.training.weights import initialize_weights, share_of_trained, trained_share
from tests.models.helpers import unit

Vectors = NDArray[np.float32]
DIM, QUERIES, DOCUMENTS = 12, 40, 90


class Problem:
    """Pairs with random vectors of unequal directions and lengths; queries have a mean of their own."""

    def __init__(self, normalize: bool = True) -> None:
        drawn = np.random.default_rng(0)
        scales = np.linspace(0.3, 2.0, DIM)
        self.documents: Vectors = (drawn.normal(size=(DOCUMENTS, DIM)) * scales + 0.5).astype(np.float32)
        self.queries: Vectors = (drawn.normal(size=(QUERIES, DIM)) * scales - 0.5).astype(np.float32)
        self.others: Vectors = (drawn.normal(size=(25, DIM)) * scales + 0.1).astype(np.float32)
        names = [f"d{i}" for i in range(DOCUMENTS)], [f"q{i}" for i in range(QUERIES)]
        self.store = VectorStore([(names[0], self.documents)], [(names[1], self.queries)], normalize)
        self.data = PairDataset.from_rows([(q, f"d{i}", None) for i, q in enumerate(names[1])], "made", names[0])
        self.source = PairSource(self.data, self.store.base, torch.device("cpu"), self.store)

    def started(
        self, queries: Vectors | None = None, **settings: Any
    ) -> tuple[RetrievalEncoder, TrainConfig, Calibration | None]:
        torch.manual_seed(1)
        config = TrainConfig(train_data="made", **settings)
        encoder = build_encoder(config, self.store.base)
        return encoder, config, initialize_weights(config, encoder, self.source, queries)

    def sides(self, encoder: RetrievalEncoder) -> tuple[Vectors, Vectors]:
        return encoder.embed(self.queries, "query"), encoder.embed(self.documents, "document")

    def base(self) -> tuple[Vectors, Vectors]:
        """Return the base's vectors, of length 1."""
        return unit(self.queries), unit(self.documents)


def trained_parts(encoder: RetrievalEncoder) -> set[str]:
    return {name.split(".")[0] for name, value in encoder.named_parameters() if value.requires_grad}


def assert_close(found: tuple[Vectors, Vectors], expected: tuple[Any, Any], **tolerance: float) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, **{"atol": 1e-5} | tolerance)


@pytest.fixture
def problem() -> Problem:
    return Problem()


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"head": "residual"},
        {"head": "mlp", "head_init": "calibrated"},
        {"output_dim": 5},
        {"nested_dims": (4, 8)},
        {"output_dim": 7, "head": "residual", "nested_dims": (4,)},
    ],
    ids=str,
)
def test_a_calibrated_start_is_that_of_calibrate(problem, settings, given):
    queries = problem.others if given else problem.queries
    encoder, _, calibration = problem.started(problem.others if given else None, **settings)
    ordered = "nested_dims" in settings
    expected = ragcun.calibrate(problem.documents, queries, output_dim=settings.get("output_dim"), ordered=ordered)
    found = problem.sides(encoder)
    assert_close(found, (expected.embed_queries(problem.queries), expected.embed_documents(problem.documents)))
    np.testing.assert_allclose(calibration.query_shift, expected.query_shift)
    assert np.abs(found[1] - unit(problem.documents)[:, : found[1].shape[1]]).max() > 0.01


def test_one_head_for_both_sides_starts_without_a_shift(problem):
    encoder, _, _ = problem.started(system="isotropic_gaussian")
    expected = ragcun.calibrate(problem.documents, problem.queries)
    assert_close(problem.sides(encoder), tuple(map(expected.embed_documents, (problem.queries, problem.documents))))


@pytest.mark.parametrize("head", ["linear", "residual"])
def test_training_queries_alone_leaves_the_base_s_document_vectors(problem, head):
    """Bit for bit for a linear head; queries are shifted and not whitened."""
    encoder, _, _ = problem.started(train_side="query", head=head)
    untouched = encoder.base(torch.from_numpy(problem.documents)).numpy()
    queries, documents = problem.sides(encoder)
    np.testing.assert_allclose(documents, untouched, atol=0 if head == "linear" else 1e-6)
    expected = ragcun.calibrate(problem.documents, problem.queries, exponent=0)
    np.testing.assert_allclose(queries, expected.embed_queries(problem.queries), atol=1e-5)
    assert EXPONENT != 0
    assert np.abs(expected.query_shift).max() > 0.1
    assert trained_parts(encoder) == {"head"}


@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        ({"train_side": "document"}, 0.0),
        ({"head": "linear", "head_init": "identity"}, 0.0),
        ({"head": "residual", "head_init": "identity"}, 0.0),
        ({"head": "mlp", "head_init": "identity"}, 1e-5),
    ],
    ids=str,
)
def test_an_identity_start_and_one_of_documents_alone_is_the_base(problem, settings, tolerance):
    encoder, _, calibration = problem.started(**settings)
    assert calibration is None
    assert_close(problem.sides(encoder), problem.base(), atol=tolerance, rtol=1e-6)
    assert trained_parts(encoder) == ({"documents"} if "train_side" in settings else {"head", "documents"})


@pytest.mark.parametrize("head", ["linear", "residual", "mlp"])
def test_an_identity_start_of_fewer_dimensions_keeps_most_of_the_distances(problem, head):
    encoder, config, _ = problem.started(head=head, head_init="identity", output_dim=5, normalize_output=False)
    weight = preserving_projection(problem.source.sample(config.seed), 5).numpy()
    assert_close(problem.sides(encoder), tuple(side @ weight.T for side in problem.base()))


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_a_random_start_is_random_and_another_on_each_side(problem, head):
    encoder, _, calibration = problem.started(head=head, head_init="random")
    assert calibration is None
    same = encoder.embed(problem.documents, "query"), encoder.embed(problem.documents, "document")
    assert np.abs(same[0] - same[1]).max() > 0.1
    assert np.abs(same[1] - unit(problem.documents)).max() > 0.1


def test_a_calibrated_start_or_a_mix_that_is_not_possible_says_why(problem):
    encoder, _, _ = problem.started(system="jepa")
    with pytest.raises(InputError, match=r"--mix_with_base: .*predictor"):
        mixed_with_base(encoder, 0.3, problem.source, 42)
    with pytest.raises(InputError, match=r"13 .* 12 .*--head_init calibrated"):
        problem.started(output_dim=13, head_init="calibrated")
    with pytest.raises(InputError, match="--no_normalize_embeddings"):
        Problem(normalize=False).started(normalize_embeddings=False, head_init="calibrated")
    one = PairDataset.from_rows([("q0", "d0", None), ("q1", "d0", None)], "made")
    problem.source = PairSource(one, problem.store.base, torch.device("cpu"), problem.store)
    with pytest.raises(InputError, match=r"--head_init calibrated: .*at least 2 vectors, got 1; .*identity"):
        problem.started()


@pytest.mark.parametrize("head", ["linear", "residual"])
def test_more_dimensions_than_the_base_has_start_as_the_identity(problem, head, caplog):
    with caplog.at_level("INFO"):
        encoder, config, calibration = problem.started(output_dim=13, head=head)
    assert calibration is None
    assert config.start == "identity"
    assert_close(problem.sides(encoder), tuple(np.pad(side, ((0, 0), (0, 1))) for side in problem.base()))
    assert "13" in caplog.text
    assert "12" in caplog.text


def test_pools_are_mined_in_the_space_of_the_start(problem):
    encoder, config, calibration = problem.started(mined_first=2, mined_last=9, mined_negatives=3)
    embedded = calibration.embed_queries(problem.queries), calibration.embed_documents(problem.documents)
    expected = mine(*(side.astype(np.float32) for side in embedded), problem.data, 2, 9)
    pools = mine_pools(config, encoder, problem.source)
    assert (pools.per_query, pools.seed) == (3, config.seed)
    assert (pools.mined == expected).mean() > 0.99
    assert (pools.mined == mine(*problem.base(), problem.data, 2, 9)).mean() < 0.9


@pytest.mark.parametrize(
    ("settings", "share"),
    [
        ({}, share_of_trained(QUERIES)),
        ({"trained_share": 0.4}, 0.4),
        ({"trained_share": 0.0, "head_init": "random"}, 0.0),
        ({"head_init": "random"}, 1.0),
        ({"head": "mlp"}, 1.0),
        ({"system": "jepa"}, 1.0),
        ({"load_checkpoint": "elsewhere"}, 1.0),
        ({"corpus": "made"}, 0.25),
    ],
    ids=str,
)
def test_the_share_of_trained_weights_is_as_asked_or_follows_the_labels(problem, settings, share):
    shape = {name: value for name, value in settings.items() if name not in ("load_checkpoint", "corpus")}
    encoder, _, _ = problem.started(**shape)
    data = {} if "corpus" in settings else {"train_data": "made"}
    assert trained_share(TrainConfig(**data, **settings), encoder, QUERIES) == share
