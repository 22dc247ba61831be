"""The sets of BEIR by name (Thakur et al., NeurIPS 2021), and the folders that names of an evaluation stand for.

MS MARCO and the 18 sets that BEIR evaluates without training on them: 19 names. 15 can be downloaded, 4 need an
agreement with their owners. One of them, CQADupStack, is 12 forums, which count as one set.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ragcun.data.beir import Collection, load_collection
from ragcun.errors import InputError

logger = logging.getLogger(__name__)

ALL, QUICK = "all", "quick"
QUICK_SETS = ("scifact", "nfcorpus", "arguana", "fiqa", "scidocs")
"""Sets that a CPU can do, none of which the models called all-* were trained on."""


@dataclass(frozen=True)
class BeirSet:
    """What is known of a set."""

    name: str  # of its folder and its archive
    queries: int  # judged queries of the split that is evaluated, over all parts
    md5: str | None = None  # of BEIR's archive; None where there is nothing to download
    hub: tuple[tuple[str, str], ...] = ()  # repository and commit on the hub, for each part
    split: str = "test"  # what is evaluated
    parts: tuple[str, ...] = ()  # the folders that it is made of; none where it is one collection
    source: str = ""  # who to ask for it, where there is nothing to download


# name, queries and MD5 as in BEIR's description (beir 2.2.0); repository of mteb and commit as in mteb 2.26
_DOWNLOADABLE = """
msmarco           6980 444067daf65d982533ea17ebd59501e4 msmarco       c5a29a104738b98a9e76336939199e264163d4a0
trec-covid          50 ce62140cb23feb9becf6270d0d1fe6d1 trec-covid    bb9466bac8153a0349341eb1b22e06409e78ef4e
nfcorpus           323 a89dba18a62ef92f7d323ec890a0d38d nfcorpus      ec0fa4fe99da2ff19ca1214b7966684033a58814
nq                3452 d4d3d2e48787a744b6f6e691ff534307 nq            b774495ed302d8c44a3a7ea25c90dbce03968f31
hotpotqa          7405 f412724f78b0d91183a0e86805e16114 hotpotqa      ab518f4d6fcca38d87c25209f94beba119d02014
fiqa               648 17918ed23cd04fb15047f73e6c3bd9d9 fiqa          27a168819829fe9bcd655c2df245fb19452e8e06
arguana           1406 8ad3e3c2a5867cdced806d6503f29b99 arguana       c22ab2a51041ffd869aaddef7af8d8215647e41a
webis-touche2020    49 46f650ba5a527fc69e0a6521c5a23563 touche2020    a34f9a33db75fa0cbb21bb5cfc3dae8dc8bec93f
quora            10000 18fb154900ba42a600f84b839c173167 quora         e4e08e0b7dbe3c8700f0daef558ff32256715259
dbpedia-entity     400 c2a39eb420a3164af735795df012ac2c dbpedia       c0f706b76e590d620bd6618b3ca8efdd34e2d659
scidocs           1000 38121350fc3a4d2f48850f6aff52e4a9 scidocs       f8c2fcf00f625baaa80f62ec5bd9e1fff3b8ae88
fever             6666 5a818580227bfb4b35bb6fa46d9b6c03 fever         bea83ef9e8fb933d90a2f1d5515737465d613e12
climate-fever     1535 8b66f0a9126c521bae2bde127b4dc99d climate-fever 47f2ac6acb640fc46020b02a5b59fdda04d39380
scifact            300 5f7d1de60b170fc8027bb7898e2efca1 scifact       d56462d0e63a25450459c4f213e49ffdb866f7f9
"""
_FORUMS = """
android     CQADupstackAndroidRetrieval 9be4c0e46342e8e3aff577a89b9a1ec9bc6b4af3
english     cqadupstack-english         ad9991cb51e31e31e430383c75ffb2885547b5f0
gaming      cqadupstack-gaming          4885aa143210c98657558c04aaf3dc47cfb54340
gis         cqadupstack-gis             5003b3064772da1887988e05400cf3806fe491f2
mathematica cqadupstack-mathematica     90fceea13679c63fe563ded68f3b6f06e50061de
physics     cqadupstack-physics         79531abbd1fb92d06c6d6315a0cbbbf5bb247ea4
programmers cqadupstack-programmers     6184bc1440d2dbc7612be22b50686b8826d22b32
stats       cqadupstack-stats           65ac3a16b8e91f9cee4c9828cc7c335575432a2a
tex         cqadupstack-tex             46989137a86843e03a6195de44b09deda022eec7
unix        cqadupstack-unix            6c6430d3a6d36f8d2a829195bc5dc94d7e063e53
webmasters  cqadupstack-webmasters      160c094312a0e1facb97e55eeddb698c0abe3571
wordpress   cqadupstack-wordpress       4ffe81d471b1924886b33c7567bfb200e9eec5c4
"""


def _table() -> Iterable[BeirSet]:
    for name, queries, md5, repository, commit in map(str.split, _DOWNLOADABLE.strip().splitlines()):
        split = "dev" if name == "msmarco" else "test"
        yield BeirSet(name, int(queries), md5, ((f"mteb/{repository}", commit),), split)
    forums = [row.split() for row in _FORUMS.strip().splitlines()]
    hub = tuple((f"mteb/{repository}", commit) for _, repository, commit in forums)
    parts = tuple(forum for forum, *_ in forums)
    yield BeirSet("cqadupstack", 13145, "4e41456d7df8ee7760a7f866133bda78", hub, parts=parts)
    yield BeirSet("bioasq", 500, source="http://bioasq.org")
    yield BeirSet("signal1m", 97, source="https://research.signal-ai.com/datasets/signal1m-tweetir.html")
    yield BeirSet("trec-news", 57, source="https://trec.nist.gov/data/news2019.html")
    yield BeirSet("robust04", 249, source="https://trec.nist.gov/data/robust/04.guidelines.html")


SETS = {beir_set.name: beir_set for beir_set in _table()}

Fetch = Callable[[BeirSet], None]
"""Brings a set into the folder of collections."""


@dataclass(frozen=True)
class CollectionFolder:
    """A collection that is not read yet; its `name` is ``set``, or ``set/part`` where a set has parts."""

    name: str
    path: Path
    split: str

    def load(self) -> Collection:
        """Read it; another number of judged queries than BEIR's is warned of.

        Raises:
            InputError: a file is missing or wrong, or an id holds white space, which run files are split at.
        """
        collection = replace(load_collection(self.path, self.split), name=self.name)
        for file, keys in (("corpus.jsonl", collection.documents), ("queries.jsonl", collection.queries)):
            for key in keys:
                if key.split() != [key]:
                    problem = f"the _id {key!r:.60} has white space, which no run file can hold; rename it"
                    raise InputError(f"{self.path / file}: {problem}")
        known, count = SETS.get(self.name), len(collection.qrels)
        if known is not None and self.split == known.split and count != known.queries:
            message = "%s: %d judged queries, BEIR's has %d: do not compare with published figures"
            logger.warning(message, self.name, count, known.queries)
        return collection


def find_sets(
    data_dir: str | Path, names: Sequence[str], split: str | None = None, fetch: Fetch | None = None
) -> list[CollectionFolder]:
    """Return the collections that names stand for, each set's parts one after the other; nothing is read.

    Args:
        data_dir: the folder of collections.
        names: of a folder in `data_dir`, of a set of BEIR, ``quick`` (`QUICK_SETS`) or ``all``: every folder with a
            test split, and with `fetch` also the sets of BEIR that can be downloaded. Repeats count once.
        split: the judgments to read; None takes those that BEIR evaluates: dev of MS MARCO, else test.
        fetch: brings a set that is not there; None fetches nothing.

    Raises:
        InputError: a collection, a part of one or its judgments are not there, and what to do about it.
    """
    data_dir = Path(data_dir)
    if fetch is None and not data_dir.is_dir():
        raise InputError(f"no such folder: {data_dir}; name the folder that holds the BEIR collections")
    expanded = dict.fromkeys(each for name in names for each in (QUICK_SETS if name == QUICK else (name,)))
    chosen = _all(data_dir, fetch is not None) if ALL in names else list(expanded)
    absent = [name for name in chosen if not is_there(data_dir, name)]
    for name in absent:
        _require_known(data_dir, name, fetch is not None)
    for name in absent:
        if fetch is not None:
            fetch(SETS[name])
    folders = [folder for name in chosen for folder in _folders(data_dir, name, split)]
    for folder in folders:
        if not (folder.path / "qrels" / f"{folder.split}.tsv").is_file():
            problem = f"no judgments for the split {folder.split!r} (qrels/{folder.split}.tsv)"
            raise InputError(f"{folder.path}: {problem}; name another one with --split, or another collection")
    return folders


def is_there(data_dir: Path, name: str) -> bool:
    """Return whether a collection, or a set with all parts, lies in `data_dir` (InputError: some parts are there)."""
    if name in _collections(data_dir):
        return True
    parts = SETS[name].parts if name in SETS else ()
    lacking = [part for part in parts if not (data_dir / name / part / "corpus.jsonl").is_file()]
    if 0 < len(lacking) < len(parts):
        raise InputError(f"{data_dir / name} lacks {', '.join(lacking)}; add what is missing, or move the folder away")
    return bool(parts) and not lacking


def _collections(data_dir: Path) -> list[str]:
    """Return the names of the folders that are one collection; one that starts with a dot is half-written."""
    return sorted(path.parent.name for path in data_dir.glob("[!.]*/corpus.jsonl"))


def _all(data_dir: Path, fetches: bool) -> list[str]:
    there = {name for name in _collections(data_dir) if (data_dir / name / "qrels" / "test.tsv").is_file()}
    there |= {name for name, beir_set in SETS.items() if beir_set.parts and is_there(data_dir, name)}
    if not fetches and not there:
        raise InputError(f"{data_dir}: no collection has a test split; there is {_listing(data_dir)}")
    for name in sorted(SETS.keys() - there) if fetches else ():
        if SETS[name].md5 is None:
            logger.info("%s is left out: it cannot be downloaded, ask for it at %s", name, SETS[name].source)
        else:
            there.add(name)
    return sorted(there)


def _listing(data_dir: Path) -> str:
    return ", ".join(_collections(data_dir)) or "no collection at all"


def _require_known(data_dir: Path, name: str, fetches: bool) -> None:
    """Refuse a name that is not there and cannot be fetched."""
    if name not in SETS:
        near = difflib.get_close_matches(name, [*SETS, *_collections(data_dir)], n=1)
        guess = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(f"no collection {name!r} in {data_dir}; {guess}there is {_listing(data_dir)}")
    if SETS[name].md5 is None:
        files = f"{data_dir / name} as corpus.jsonl, queries.jsonl and qrels/test.tsv"
        raise InputError(f"{name} cannot be downloaded: ask for it at {SETS[name].source}, and put it into {files}")
    if not fetches:
        raise InputError(f"{name} is not in {data_dir}; give --download (or --mirror URL), or put its folder there")


def _folders(data_dir: Path, name: str, split: str | None) -> list[CollectionFolder]:
    split = split or (SETS[name].split if name in SETS else "test")
    if name in _collections(data_dir):
        return [CollectionFolder(name, data_dir / name, split)]
    return [CollectionFolder(f"{name}/{part}", data_dir / name / part, split) for part in SETS[name].parts]
