"""Statistics of a batch of pairs that show a collapse: spread, rank, and whether queries find their documents."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ragcun.batch import Views
from ragcun.distance import Distance
from ragcun.isotropy.spectrum import entropy_rank
from ragcun.losses.contrastive import similarity_logits
from ragcun.losses.transforms import unit_rows

Statistics = dict[str, float]


def _effective_rank(centred: Float[Tensor, "n dim"]) -> float:
    gram = centred.T @ centred if len(centred) > centred.shape[1] else centred @ centred.T
    return entropy_rank(torch.linalg.eigvalsh(gram).clamp_min(0).double().cpu().numpy())


def _of_side(z: Float[Tensor, "n dim"], side: str) -> Statistics:
    n, centred = len(z), z - z.mean(0)
    variance, length = float(centred.square().sum()) / (n - 1), float(z.square().sum()) / n
    unit = unit_rows(z)
    cosines = float(unit.sum(0).square().sum() - unit.square().sum()) / (n * (n - 1))
    values = {"variance": variance, "spread": variance / length if length else 0.0}
    values |= {"rank": _effective_rank(centred), "mean_cosine": cosines}
    return {f"{name}_{side}": value for name, value in values.items()}


def _of_pairs(views: Views, distance: Distance) -> Statistics:
    query, positive = views.query, views.positive
    between = float((query.mean(0) - positive.mean(0)).square().sum())
    within = float(query.var(0).sum() + positive.var(0).sum())
    similarity = similarity_logits(query, positive, distance)
    others = ~torch.eye(len(query), dtype=torch.bool, device=query.device)
    if views.relevant is not None:
        others &= ~views.relevant
    nearer = ((similarity >= similarity.diagonal()[:, None]) & others).sum(1)
    accuracy = (2 * nearer < others.sum(1).clamp_min(1)).float().mean()
    gap = between / within if within else 0.0
    return {"gap": gap, "accuracy": float(accuracy), "top1": float((nearer == 0).float().mean())}


def _of_residual(query: Tensor, predicted: Tensor, target: Tensor) -> Statistics:
    length, way = float(query.square().sum()), float((target - query).square().sum())
    correction, error = float((predicted - query).square().sum()), float((target - predicted).square().sum())
    values = {"correction": (correction / length) ** 0.5, "needed": (way / length) ** 0.5} if length else {}
    return {"correction": 0.0, "needed": 0.0, "skill": 1 - error / way if way else 0.0} | values


@torch.no_grad()
def probe_statistics(views: Views, distance: Distance = "euclidean") -> Statistics:
    """Return what a batch of pairs shows about collapse, in float32, from its queries and positives.

    For each side s of ``query`` and ``document``, with C the unbiased covariance of its rows z:

    - ``variance_s``: tr C; ``spread_s``: tr C over the mean of ‖z‖², near 0 when all embeddings are equal;
    - ``rank_s``: effective rank, exp of the entropy of C's eigenvalues over their sum, 1 to ``rank_bound`` =
      min(n − 1, D); 0 without any spread;
    - ``mean_cosine_s``: mean cosine of two different rows.

    For the pairs:

    - ``gap``: ‖mean query − mean document‖² over the sum of the two variances;
    - ``accuracy``: share of queries nearer to their positive than to at least half of the other documents; chance .5;
    - ``top1``: share of queries nearer to their positive than to every other document; chance 1/n. A tie is a miss,
      and known positives (`Views.relevant`) are not others.

    With a residual predictor, as roots of sums over the rows:
    - ``correction``: ‖predicted − query‖ over ‖query‖; ``needed``: ‖target − query‖ over ‖query‖;
    - ``skill``: 1 − ‖target − predicted‖² / ‖target − query‖²; 0 is a prediction that is as good as the query itself.

    Effective rank: Roy & Vetterli 2007, on eigenvalues of the covariance where they take singular values.

    Raises:
        ValueError: fewer than 2 pairs, or embeddings that are not finite.
    """
    given = {name: getattr(views, name) for name in ("query", "positive", "predicted", "target")}
    shown = {name: value.float() for name, value in given.items() if value is not None}
    if len(views.query) < 2:
        raise ValueError(f"a probe needs at least 2 pairs, got {len(views.query)}")
    for name, value in shown.items():
        if not bool(value.isfinite().all()):
            raise ValueError(f"the probe's {name} embeddings are not finite")
    pairs = Views(shown["query"], shown["positive"], relevant=views.relevant)
    with torch.autocast(device_type=views.query.device.type, enabled=False):
        values = _of_side(pairs.query, "query") | _of_side(pairs.positive, "document") | _of_pairs(pairs, distance)
        values["rank_bound"] = float(min(len(pairs.query) - 1, pairs.query.shape[1]))
        if views.residual is not None and {"predicted", "target"} <= shown.keys():
            values |= _of_residual(pairs.query, shown["predicted"], shown["target"])
    return values
