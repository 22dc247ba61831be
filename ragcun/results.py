"""Results of an evaluation as typed values, and the reader of JSON files that checks values against those types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from ragcun.errors import InputError
from ragcun.io import read_json, write_json

METRIC = "NDCG@10"  # the metric that is tested and that every system has on every dataset
Part = Literal["seen", "unseen", "held_out"]
PARTS: tuple[Part, ...] = ("seen", "unseen", "held_out")
Count = Annotated[int, Field(strict=True, ge=0, lt=1 << 63)]  # as int64 holds
Probability = Annotated[float, Field(strict=True, ge=0, le=1)]
Number = Annotated[float, Field(strict=True, ge=-1e300, le=1e300)]  # as the limits of a plot's axis hold


@dataclass(frozen=True)
class DocumentSpace:
    """How the embeddings of a dataset's documents lie: isotropy score (None: undefined), and their lengths."""

    isotropy_score: Number | None
    mean_norm: Number
    norm_deviation: Number


@dataclass(frozen=True)
class Scores:
    """Metrics of one system on the queries of a dataset (none: empty) or of a part of it.

    `mean_difference` is the evaluated model's NDCG@10 minus this system's, with the two-sided p values of the paired
    randomisation test and the paired t-test; None where not tested. `seen` and `unseen` are the queries with and
    without a relevant document among the model's training positives; `held_out` ranks documents hidden from training
    alone. `note` is what makes the scores doubtful. `space` is of a system that embeds documents.

    Raises:
        ValueError: NDCG@10 is missing although there are queries.
    """

    metrics: dict[str, Number]
    n_queries: Count | None = None
    n_documents: Count | None = None
    mean_difference: Number | None = None
    p_randomisation: Probability | None = None
    p_t: Probability | None = None
    seen: Scores | None = None
    unseen: Scores | None = None
    held_out: Scores | None = None
    space: DocumentSpace | None = None
    note: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _metrics_apart(cls, content: Any) -> Any:
        """In a file they are the keys with an ``@``."""
        is_object = isinstance(content, dict)
        return {**content, "metrics": {key: content[key] for key in content if "@" in key}} if is_object else content

    def __post_init__(self) -> None:
        if METRIC not in self.metrics and (self.metrics or self.n_queries != 0):
            raise ValueError(f"lacks {METRIC!r}")

    def part(self, part: Part | None) -> Scores | None:
        """Return the scores on a part, or these for None; None where there are no queries."""
        scores = self if part is None else cast("Scores | None", getattr(self, part))
        return scores if scores is not None and scores.metrics else None


@dataclass(frozen=True)
class SystemScores:
    """One system on every dataset: its name, how its vectors are stored (None: it has none), scores and averages."""

    name: Annotated[str, Field(validation_alias="model")]
    datasets: dict[str, Scores]
    average: dict[str, Number]
    precision: str | None = None
    truncate_dim: Count | None = None
    bytes_per_vector: Count | None = None
    trained_parameters: Count | None = None  # weights that training changed; None: unknown

    @property
    def title(self) -> str:
        """The name, and how vectors are smaller than the encoder's: ``minilm, 128 dimensions, int8``."""
        cut = "" if self.truncate_dim is None else f", {self.truncate_dim} dimensions"
        return f"{self.name}{cut}{'' if self.precision in (None, 'float32') else f', {self.precision}'}"


@dataclass(frozen=True)
class CollectionFacts:
    """What distinguishes a collection from another one of its name, and the set that it is a part of."""

    queries: Count
    documents: Count
    split: str = "test"
    sha256: str | None = None
    part_of: str | None = None
    notes: list[str] | None = None  # `Collection.notes`


@dataclass(frozen=True)
class Results:
    """An evaluated model, its untouched base (None: it is one, or has none), baselines by slug, and the datasets.

    `distance` is by which the model compares vectors, or ``bm25``; `manifest` is what else was recorded.
    """

    model: SystemScores
    distance: str
    untouched_base: SystemScores | None
    baselines: dict[str, SystemScores]
    collections: dict[str, CollectionFacts]
    manifest: Mapping[str, Any]
    path: Path = field(default=Path(), compare=False, repr=False)  # of the file that they were read from

    @property
    def systems(self) -> list[tuple[str, SystemScores]]:
        """Untouched base, baselines and model, each with its title; of baselines of one title, later ones by slug."""
        base = self.untouched_base
        systems = [] if base is None else [(f"{base.name} (untouched)", base)]
        for slug, system in self.baselines.items():
            systems.append((slug if system.title in dict(systems) else system.title, system))
        return [*systems, (self.model.title, self.model)]

    @property
    def datasets(self) -> list[str]:
        """The evaluated sets, without the parts that some are made of."""
        return [name for name in self.model.datasets if self.collections[name].part_of is None]

    def parts_of(self, dataset: str) -> list[str]:
        """Return the collections that a set is made of: mostly itself."""
        return [name for name, facts in self.collections.items() if facts.part_of == dataset] or [dataset]

    @classmethod
    def read(cls, path: str | Path) -> Results:
        """Read and validate a results file, also of an earlier version.

        Raises:
            InputError: the file is missing or no results file, or a part of it is missing or wrong; names the key.
        """
        content = read_json(path)
        if not is_results(content):
            raise InputError(f"{path} is not a results file of ragcun evaluate; give files that it wrote")
        manifest = typed(dict[str, Any], content.get("manifest"), path, "manifest")
        results = cls(
            typed(SystemScores, content, path),
            typed(str, content.get("distance", ""), path, "distance"),
            typed(SystemScores | None, content["untouched_base"], path, "untouched_base"),
            typed(dict[str, SystemScores], content["baselines"], path, "baselines"),
            typed(dict[str, CollectionFacts], manifest.pop("collections", {}), path, "manifest.collections"),
            manifest,
            Path(path),
        )
        for problem in results._problems():
            raise InputError(f"{path}: {problem}; evaluate again")
        return results

    def to_dict(self) -> dict[str, Any]:
        """Return the content of a results file."""
        content = asdict(self, dict_factory=_json_object)
        manifest = {**self.manifest, "collections": content["collections"]}
        rest = {name: content.get(name) for name in ("distance", "untouched_base", "baselines")}
        return {**content["model"], **rest, "manifest": manifest}

    def write(self, path: str | Path) -> None:
        """Write the results as JSON; the file is complete or absent."""
        write_json(path, self.to_dict())

    def _problems(self) -> Iterator[str]:
        """Yield what does not fit together, though each part has the right type."""
        datasets, base = self.model.datasets, self.untouched_base
        if not datasets:
            yield "datasets is empty"
        for key, kind in (("data_dir", str), ("command", str), ("seed", int)):
            if not isinstance(self.manifest.get(key), kind | None):
                yield f"manifest.{key} is {self.manifest[key]!r:.60}"
        for name in {**datasets, **self.collections}:
            if not is_dataset_name(name):
                yield f"{name!r:.60} is not the name of a dataset"
        yield from (f"manifest.collections lacks {name!r:.60}" for name in datasets if name not in self.collections)
        for name, facts in self.collections.items():
            if facts.part_of is not None and facts.part_of not in datasets:
                yield f"manifest.collections.{name:.60}.part_of is {facts.part_of!r:.60}, which is not evaluated"
        for title, system in self.systems:
            if METRIC not in system.average:
                yield f"the average of {title:.60} lacks {METRIC!r}"
            for name in (name for name in system.datasets if name not in datasets):
                yield f"datasets of {title:.60} holds {name!r:.60}, on which the model was not evaluated"
        if base is None:
            return
        yield from (f"untouched_base.datasets lacks {name!r:.60}" for name in datasets if name not in base.datasets)
        for name, whole in base.datasets.items():
            for part in (None, *PARTS):
                scores = whole.part(part)
                if scores is not None and scores.n_queries != 1 and scores.p_randomisation is None:
                    yield f"untouched_base.datasets.{'.'.join(filter(None, (name, part))):.80} lacks 'p_randomisation'"


def is_results(content: Any) -> bool:
    """Tell whether the content of a JSON file has the parts of a results file."""
    return isinstance(content, dict) and {"model", "datasets", "untouched_base", "baselines"} <= content.keys()


def reason(record: Mapping[str, Any]) -> str:
    """Say in one sentence what was chosen, and why."""
    if "p" not in record:
        return f"{record['chosen']}: {record['why']}"
    queries = f"on {record['queries']} {record['split']} queries"
    if record["score"] == record["without"]:
        return f"{record['chosen']}: nothing is better {queries}"
    verdict = "supports it" if record["chosen"] == record["best"] else "does not support more"
    scores = f"{record['best']} has NDCG@10 {record['score']:.4f} against {record['without']:.4f} without"
    return f"{record['chosen']}: {scores} {queries}; the paired test {verdict} (p {record['p']:.4f})"


def is_dataset_name(name: str) -> bool:
    """Tell whether a name, ``set`` or ``set/part``, stays within the folder in which it is looked up.

    >>> [is_dataset_name(name) for name in ("scifact", "cqadupstack/android", "../x", "/x", "")]
    [True, True, False, False, False]
    """
    return bool(name) and not any(part in ("", ".", "..") or set(part) & set("\\\0") for part in name.split("/"))


def typed(hint: Any, value: Any, path: str | Path, key: str = "") -> Any:
    """Return a value of a JSON file as a type: a dataclass, whose unknown keys are passed over, or what it is made of.

    Raises:
        InputError: the value is of another type; names its key.
    """
    try:
        return TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        wrong = error.errors()[0]
        place = ".".join(str(part) for part in (key, *wrong["loc"]) if part not in ("", "metrics"))[:200] or "the file"
        got = "" if wrong["type"] in ("missing", "value_error") else f", got {wrong['input']!r:.60}"
        raise InputError(f"{path}: {place}: {wrong['msg']}{got}; write it again") from error


def _json_object(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    # a dataclass as `typed` reads it, without the fields that are None
    content = {"model" if name == "name" else name: value for name, value in fields if value is not None}
    return {**content.pop("metrics", {}), **content}
