"""docs/troubleshooting.md has every message that wrong input gets, and no other.

``python tests/test_troubleshooting.py`` adds the messages that the page lacks to the section of their module, takes
out those that are gone, and leaves UNSAID where a message names no cure: write one there.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "troubleshooting.md"
ERRORS = {"InputError", "WriteError", "BrokenStreamError", "DamagedPointError"}
ANY = "…"
"""Stands in the page for what differs from case to case."""
UNSAID = "TODO"
LEAST_LETTERS = 6
"""A message with fewer of its own passes on another one, as ``{path}: {error}`` does."""
SECTIONS = {
    "Files, flags and settings": ("files.py", "atomic.py", "cli.py", "output_folder.py", "dtype.py", "data/disk.py"),
    "Pairs, documents and queries": (
        "data/pairs.py", "data/pair_files.py", "data/records.py", "data/documents.py", "data/queries.py",
        "data/json_arrays.py", "data/seen.py", "data/holdout.py", "data/adaptation.py",
    ),
    "Collections": ("data/beir.py", "data/qrels.py", "data/locate.py"),
    "Making pairs": (
        "data/augment.py", "data/prepare.py", "data/splits.py", "data/python_docs.py", "data/mining_task.py",
        "data/hard_negatives.py", "commands/prepare.py",
    ),
    "Downloads": ("data/", "commands/download"),
    "Vectors from elsewhere": ("models/vector",),
    "Models, checkpoints and the cache": ("models/",),
    "Many processes and machines": ("distributed/", "commands/search_corpus.py"),
    "Sweeps": ("sweeps/", "commands/sweep.py"),
    "Evaluation and isotropy": (
        "retrieval/", "isotropy/", "commands/evaluate.py", "commands/mteb.py", "commands/isotropy.py",
    ),
    "Tables, plots and the report": ("reporting/",),
    "Training and calibration": ("",),
}  # fmt: skip
"""Sections of the page and the modules whose messages stand there; the first that fits a module is its own."""
ROW = re.compile(r"\| `(?P<message>[^`]+)` \| (?P<cure>.*) \|")


def template(node: ast.expr) -> str:
    """Return a message with ``…`` for all that is put into it."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else ANY for part in node.values)
    if isinstance(node, ast.BinOp):
        return template(node.left) + template(node.right)
    return ANY


def key_of(message: str) -> str:
    """Return how the page names a message: what stands before its cure, white space and placeholders collapsed."""
    named = re.sub(rf"{ANY}+", ANY, " ".join(message.split(";")[0].split()))
    return named.replace("|", "/").replace("`", "'")


def messages() -> Iterator[tuple[str, str]]:
    """Yield ``(module, message)`` of each error that means wrong input."""
    package = ROOT / "ragcun"
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ERRORS and node.args:
                message = template(node.args[0])
                if sum(letter.isalpha() for letter in key_of(message)) >= LEAST_LETTERS:
                    yield path.relative_to(package).as_posix(), message


def rows(page: str) -> dict[str, str]:
    """Return the cures of the page by message."""
    return {row["message"]: row["cure"] for row in map(ROW.fullmatch, page.splitlines()) if row}


def test_every_message_has_an_entry() -> None:
    lacking = sorted({key_of(message) for _, message in messages()} - rows(PAGE.read_text(encoding="utf-8")).keys())
    assert not lacking, "run `python tests/test_troubleshooting.py`; missing:\n" + "\n".join(lacking)


def test_every_entry_is_a_message() -> None:
    gone = sorted(rows(PAGE.read_text(encoding="utf-8")).keys() - {key_of(message) for _, message in messages()})
    assert not gone, "run `python tests/test_troubleshooting.py`; no longer in the code:\n" + "\n".join(gone)


def test_every_entry_names_a_cure() -> None:
    page = PAGE.read_text(encoding="utf-8")
    silent = [message for message, cure in rows(page).items() if UNSAID in cure or len(cure.split()) < 2]
    assert not silent, "write what to do about:\n" + "\n".join(silent)
    assert [line[3:] for line in page.splitlines() if line.startswith("## ")] == list(SECTIONS)


def test_messages_are_found_whole() -> None:
    found = {key_of(message) for _, message in messages()}
    assert "no such file: … (relative paths start at …)" not in found
    assert {"… is a folder where a file is expected", "no such file: …", "… was not written: …"} <= found
    assert len(found) > 300


def renewed(page: str) -> str:
    """Return the page with what it lacks, and without what is gone; its own words stay."""
    written, where = rows(page), {}
    for module, message in messages():
        section = next(name for name, places in SECTIONS.items() if module.startswith(places))
        cure = "; ".join(part.strip() for part in message.split(";")[1:]).replace("|", "/")
        where.setdefault(key_of(message), (section, cure[:1].upper() + cure[1:] if cure.strip(ANY + " ") else UNSAID))
    head, *parts = re.split(r"^## ", page, flags=re.MULTILINE)
    prose = {part.partition("\n")[0]: "\n".join(
        line for line in part.splitlines()[1:] if not line.startswith("|")).strip() for part in parts}  # fmt: skip
    text = head.rstrip() + "\n"
    for section in SECTIONS:
        kept = sorted((key, written.get(key, cure)) for key, (name, cure) in where.items() if name == section)
        table = "".join(f"| `{key}` | {cure} |\n" for key, cure in kept)
        text += f"\n## {section}\n\n{prose.get(section, UNSAID)}\n\n| message | what to do |\n|---|---|\n{table}"
    return text


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
