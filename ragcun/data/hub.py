"""Splits of the hub's data sets, or of a folder with their layout, streamed by `datasets`; passages of Wikipedia."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from ragcun.data.texts import split_sentences, text_key
from ragcun.errors import InputError, as_input_error, require_package, require_same
from ragcun.io import as_json, file_digest, read_json, replacing_file, write_json, write_json_lines

if TYPE_CHECKING:
    from datasets import IterableDataset

FORMAT = 2


def naming_hub_errors(problem: str, advice: str) -> AbstractContextManager[None]:
    """Turn what `datasets` and the hub's client raise for absent, damaged or unreachable data into an `InputError`."""
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError
    from pyarrow import ArrowException  # type: ignore[import-untyped]

    kinds = (OSError, ValueError, ArrowException, DatasetsError, *HfHubHTTPError.__bases__)
    return as_input_error(problem, f"; {advice}", kinds)


def open_rows(
    name: str, subset: str | None, split: str, revision: str | None = None, seed: int | None = None
) -> RowStream:
    """Open a split of a data set of the hub (owner/name) or a folder for streaming; none of its code is run.

    `subset` is a configuration or a subfolder, None where there is only one. The revision (commit, branch or tag; None
    takes the newest) is pinned to its commit. A seed shuffles the order of the split's files.
    """
    require_package("datasets", "data")
    from datasets import load_dataset
    from huggingface_hub import HfApi

    folder = Path(name)
    source = {"name": name, "subset": subset, "split": split, "revision": revision}
    if not folder.is_dir() and (name.startswith((".", "/", "~")) or name.count("/") != 1):
        raise InputError(f"no such folder: {name}; give owner/name on the hub, or a folder of .parquet or .jsonl files")
    advice = "check the name (a file, a folder, or owner/name), subset, split, revision and connection"
    absent = "" if folder.is_dir() else ", and no such file or folder is here"
    with naming_hub_errors(f"cannot open {_label(source)}{absent}", advice):
        if folder.is_dir():
            place = {"data_dir" if subset and (folder / subset).is_dir() else "name": subset}
        else:
            source["revision"] = HfApi().dataset_info(name, revision=revision, timeout=10).sha
            place = {"name": subset, "revision": source["revision"]}
        rows = load_dataset(name, split=split, streaming=True, **place)  # nosec B615
    if seed is not None:  # a buffer of one row of one file: files are shuffled, the rows of a file are not
        known = inspect.signature(rows.shuffle).parameters  # datasets before 5 reads one file at a time anyway
        rows = rows.shuffle(seed, buffer_size=1, **{name: 1 for name in known if name == "max_buffer_input_shards"})
    return RowStream(rows, source)


@dataclass(frozen=True)
class RowStream:
    """The rows of a split; `source` is its name, subset, split and revision."""

    stream: IterableDataset
    source: Mapping[str, Any]

    def __str__(self) -> str:
        return _label(self.source)

    @property
    def columns(self) -> list[str]:
        """The fields of a row."""
        return list(self.stream.column_names or next(self._read(self.stream.take(1)), {}))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self._read(self.stream)

    def _read(self, rows: IterableDataset) -> Iterator[dict[str, Any]]:
        with naming_hub_errors(f"{self} cannot be read on", "check the connection and give the same command again"):
            yield from rows

    def wrong_columns(self, expected: str) -> InputError:
        """Return the error that the columns are others than those expected."""
        there = ", ".join(self.columns)
        return InputError(f"{self} has the columns {there}; expected: {expected}; name another --subset or --source")


def _label(source: Mapping[str, Any]) -> str:
    return " ".join(filter(None, source.values()))


def is_complete(
    manifest: Path, others: Iterable[Path], settings: Mapping[str, Any], resume: bool, overwrite: bool
) -> bool:
    """Return whether an earlier download of the same settings is there to `resume`; `manifest` is its last file.

    Raises:
        InputError: without `overwrite`, files of a download are there that was cut off or has other `settings`.
    """
    there = [file for file in (*others, manifest) if file.exists()]
    if overwrite or not there:
        return False
    before = read_json(manifest) if resume and manifest.exists() else None
    if not isinstance(before, dict) or not {"settings", "files"} <= before.keys():
        raise InputError(f"{there[0]} already exists; name another output, or give --overwrite (--resume)")
    place, remedy = f"{manifest} is of another download", "give the same settings, another output, or --overwrite"
    require_same(before["settings"], as_json(settings), place, remedy)
    for path, facts in ((manifest.parent / name, facts) for name, facts in before["files"].items()):
        if not path.exists() or path.stat().st_size != facts["bytes"]:
            raise InputError(f"{path} does not have the size in {manifest.name}; give --overwrite")
    return True


def write_manifest(
    manifest: Path, written: Iterable[Path], settings: Mapping[str, Any], rows: RowStream, counts: Mapping[str, int]
) -> None:
    """Write where the rows come from and what each written file holds."""
    facts = {path.name: {"bytes": path.stat().st_size, "blake2b": file_digest(path)} for path in written}
    about = {"format": FORMAT, "source": dict(rows.source), "settings": settings, "counts": dict(counts)}
    write_json(manifest, {**about, "files": facts})


COLUMNS = ("id", "title", "text")
_LIST_TITLE = re.compile(r"((lists?|index|outline|timeline) of )|.*\(disambiguation\)", re.IGNORECASE)
_REFERS = re.compile(r"\s*.*refers? to[ :]*:[^\S\n]*(\n|$)", re.IGNORECASE)


def is_list_page(title: str, text: str) -> bool:
    """Say whether an English article only points to others, by its title and the end of its first line."""
    return bool(_LIST_TITLE.match(title) or _REFERS.match(text))


def split_passages(text: str, max_length: int, min_length: int = 1) -> list[str]:
    """Cut a text into passages of at most `max_length` words (what blanks separate), in order.

    A paragraph (a line) goes whole into the passage that is being filled, or else begins the next one; one that is
    longer than a passage is cut where sentences end, and a sentence that is longer, between words. A passage below
    `min_length` is filled up with the first sentences of the next paragraph, and may still remain too short.
    """
    passages = [""]
    for paragraph in filter(None, map(str.strip, text.split("\n"))):
        words, size = len(paragraph.split()), len(passages[-1].split())
        if size + words > max_length and size >= min_length:
            passages.append("")
            size = 0
        whole = size + words <= max_length
        for place, piece in enumerate([paragraph] if whole else _pieces(paragraph, max_length)):
            if len(f"{passages[-1]} {piece}".split()) > max_length:
                passages.append("")
            passages[-1] += (" " if place else "\n") + piece
    return list(filter(None, map(str.strip, passages)))


def read_passages(
    rows: RowStream, wanted: int, max_length: int, min_length: int, counts: Counter[str]
) -> Iterator[dict[str, str]]:
    """Yield at most `wanted` passages of articles, each text once; `counts` says what was left out and why."""
    if not set(COLUMNS) <= set(rows.columns):
        raise rows.wrong_columns(", ".join(COLUMNS))
    seen: set[bytes] = set()
    with tqdm(total=wanted, desc=str(rows), unit=" passages", delay=2, leave=False) as bar:
        for row in rows:
            title, text, kept = (row["title"] or "").strip(), row["text"] or "", 0
            counts["rows_read"] += 1
            if is_list_page(title, text):
                counts["list_pages"] += 1
                continue
            for passage in split_passages(text, max_length, min_length):
                key, words = text_key(passage), len(passage.split())
                if words < min_length or key in seen:
                    counts["short_passages" if words < min_length else "repeated_passages"] += 1
                    continue
                seen.add(key)
                yield {"_id": f"{row['id']}-{kept}", "title": title, "text": passage}
                kept += 1
                if len(seen) == wanted:
                    break
            counts.update({"passages": kept, "articles" if kept else "articles_without_passage": 1})
            bar.update(kept)
            if len(seen) == wanted:
                return
    if not seen:
        raise InputError(f"{rows} has no passages of {min_length} words; lower --min_length")


def write_passages(path: Path, passages: Iterable[dict[str, Any]]) -> None:
    """Write passages as JSON lines, a JSON array (.json) or, title first, a line each (.txt); complete or absent."""
    if path.suffix.lower() == ".txt":
        with replacing_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.writelines(" ".join(f"{row['title']} {row['text']}".split()) + "\n" for row in passages)
    else:
        write_json_lines(path, passages)


def _pieces(paragraph: str, max_length: int) -> Iterator[str]:
    """Yield the sentences of a paragraph, those that are too long in runs of `max_length` words."""
    for sentence in split_sentences(paragraph):
        words = sentence.split()
        if len(words) <= max_length:
            yield sentence
        else:
            yield from (" ".join(words[start : start + max_length]) for start in range(0, len(words), max_length))
