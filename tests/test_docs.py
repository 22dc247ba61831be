"""The pages: commands parse, and run on stand-ins or are marked; links lead somewhere; no other host is asked.

A block that is not run has a comment above it: ``<!-- not run: REASON -->``, or ``<!-- run by tests/FILE -->``.
"""

import functools
import glob
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import ragcun
from ragcun import isotropy
from ragcun.cli.main import COMMANDS, load, main
from ragcun.cli.parser import parse_config
from ragcun.data.beir import Document, write_collection
from ragcun.embeddings.hub import PACKAGED
from ragcun.io import write_json_lines, write_text
from ragcun.losses import CONTRASTIVE, ISOTROPY
from ragcun.models.encoder import SYSTEMS
from ragcun.options import settings_of
from tests.conftest import save_tiny_bert
from tests.hub import listening
from tests.reporting.html.conftest import browser  # noqa: F401 (a fixture)

ROOT = Path(__file__).resolve().parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
GENERATED = "commands.md"  # by mkdocs_hooks.py
MADE = re.compile(r"--plugins|--help|--config \S*/\S+\.yaml|mean_direction")
"""What is only there once a page's other commands have run."""
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS]
NOT_RUN = {"pip", "make", "ray", "accelerate", "torchrun", "tensorboard", "mkdocs", "pytest", "pre-commit", "git"}
"""Programs that install, start servers, or are tests themselves."""
PRINT = "() { printf '%s\\0' ${FUNCNAME[0]} \"$@\"; printf '\\n\\0'; }\n"
STUBS = "".join(f"{name}{PRINT}" for name in sorted({*NOT_RUN, "ragcun", "python"}))
BLOCK = re.compile(r"(?:^<!-- (not run|run by)[: ]+(.+?) -->\n+)?^```(\w*)\n(.*?)^```$", re.M | re.S)


class Block(NamedTuple):
    """A block of code, and the mark above it."""

    mark: str
    reason: str
    language: str
    code: str


def blocks_of(page: Path) -> list[Block]:
    """Return the blocks of a page that are commands or Python."""
    found = [Block(*match) for match in BLOCK.findall(page.read_text(encoding="utf-8"))]
    return [block for block in found if block.language in ("", "sh", "python")]


def commands_of(code: str) -> Iterator[list[str]]:
    """Let bash expand loops, variables and quotes; yield the words of each command."""
    done = subprocess.run(["bash", "-eu", "-c", STUBS + code], capture_output=True, text=True, cwd=ROOT / "tests")
    assert not done.returncode, done.stderr
    for line in done.stdout.split("\n\0")[:-1]:
        yield line.split("\0")[:-1]


def shell(page: Path) -> list[tuple[Block, list[str]]]:
    """Return the commands of a page, each with its block."""
    blocks = [block for block in blocks_of(page) if block.language != "python"]
    return [(block, words) for block in blocks for words in commands_of(block.code)]


def command_of(words: list[str]) -> str:
    """Return the name of a ragcun command."""
    return next(name for name in (words[1], " ".join(words[1:3])) if name in COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_a_page_exists_with_its_flags(page):
    for _, words in shell(page):
        program, *rest = words
        if program == "ragcun" and rest[0] not in ("--help", "COMMAND"):
            name = command_of(words)
            flags = rest[len(name.split()) :]
            if not MADE.search(" ".join(flags)):
                parse_config(load(name)[1], None, flags)
        elif program == "python" and rest[0].endswith(".py") and "/" in rest[0]:
            source = (ROOT / rest[0]).read_text(encoding="utf-8")
            known = {flag for flag in rest[1:] if flag.startswith("--") and flag.strip("-") not in source}
            assert not known or "scripts/" in rest[0], f"{rest[0]} has no {known}"
        elif program == "make" and "=" not in rest[0]:
            assert re.search(rf"^{rest[0]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M), rest
        elif program == "pytest":
            assert all((ROOT / each).exists() for each in rest if each.startswith("tests/")), rest


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_and_flags_that_a_sentence_names_exist(page: Path) -> None:
    prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for code in re.findall(r"`([^`]+)`", prose):
        files = re.findall(r"\b(?:tests|benchmarks|scripts|configs)/[\w/.-]+\.\w+", code)
        assert [name for name in files if "mean_direction" not in name and not (ROOT / name).exists()] == []
        flags = set(re.findall(r"--(?:no_)?(\w+)", code)) - {"help", "plugins", "config", "quiet", "json", "output"}
        if code.startswith("python benchmarks/"):
            source = (ROOT / files[0]).read_text(encoding="utf-8")
            assert {flag for flag in flags if f'"--{flag}"' not in source} == set(), code
        elif code.startswith("ragcun ") and "COMMAND" not in code:
            assert flags <= {*settings_of(load(command_of(code.split()))[1])}, code


def test_the_reference_has_every_public_name_and_every_choice():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    for name, module in ragcun._HOME.items():
        home = getattr(ragcun, name)
        assert f"::: {module}.{home.__name__}\n" in page, name
    for name in (*ISOTROPY, *CONTRASTIVE, *SYSTEMS):
        assert f"`{name}`" in page or f" {name}`" in page, name


def test_every_mark_has_a_reason():
    for page in PAGES:
        for block in blocks_of(page):
            assert block.mark != "run by" or page.name in (ROOT / block.reason).read_text(encoding="utf-8"), block
            assert block.mark != "not run" or len(block.reason.split()) > 2, block
    unmarked = [words for page in PAGES for block, words in shell(page) if not block.mark]
    assert [words for words in unmarked if words[0] == "python"] == []


def run_briefly(words: list[str]) -> None:
    """Run a command of ragcun, training with two steps."""
    main([*words, "--steps", "2"] if words[0] == "train" and "--corpus" not in words else words)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a stand-in for each file that the pages name, and for MiniLM; collections are of 60 documents."""
    folder = tmp_path_factory.mktemp("place")
    topics = ("The sea", "Old bread", "A cold stone", "River heat", "Winter wheat", "The moon")
    texts = [f"{topic} number {n} moves slowly. It is seen by {n + 2} people." for n in range(10) for topic in topics]
    documents = {f"d{n}": Document(f"About {n}", text) for n, text in enumerate(texts)}
    queries = {f"q{n}": " ".join(text.split()[:4]) for n, text in enumerate(texts)}
    qrels = {split: {f"q{n}": {f"d{n}": 1} for n in range(*ends)} for split, ends in
             {"train": (0, 30), "dev": (30, 40), "test": (26, 60)}.items()}  # fmt: skip
    for name in ("scifact", "nfcorpus", "cranfield", "mine"):
        write_collection(folder / "DIR" / name, documents, queries, qrels)
    pairs = [{"query": queries[f"q{n}"], "positive": texts[n], "negative": texts[n - 1]} for n in range(60)]
    for name in ("pairs", "train"):
        write_json_lines(folder / f"{name}.jsonl", pairs)
    write_json_lines(folder / "dev.jsonl", pairs[:8])
    write_text(folder / "documents.txt", "\n".join(texts))
    write_text(folder / "my_queries.txt", "\n".join(queries.values()))
    random = np.random.default_rng(0)
    for side, names in (("documents", documents), ("queries", queries)):
        vectors = random.normal(size=(60, 8)).astype("float32")
        np.save(folder / f"{side}.npy", vectors)
        (folder / "vectors").mkdir(exist_ok=True)
        np.save(folder / "vectors" / f"{side}.npy", vectors)
        write_text(folder / "vectors" / f"{side}.txt", "\n".join(names))
    package = tmp_path_factory.mktemp("packages") / "minilm_stand_in"
    words = sorted(set(re.findall(r"\w+", " ".join(texts).lower())))
    save_tiny_bert(package / "model", layers=1, words=words, dim=384)
    (package / "__init__.py").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PACKAGED, "minilm", package.name)
        patch.setattr(isotropy, "MeasureSettings", functools.partial(isotropy.MeasureSettings, groups=5))  # not 50
        patch.syspath_prepend(package.parent)
        patch.chdir(folder)
        run_briefly(shlex.split("train --train_data pairs.jsonl --output_dir checkpoints/mine"))
        evaluate = "evaluate --model_path checkpoints/mine --datasets scifact --data_dir DIR --output results/mine.json"
        run_briefly(shlex.split(evaluate))
        yield folder


@pytest.fixture
def registries() -> Iterator[None]:
    """Forget what a page registers."""
    before = [(registry, dict(registry)) for registry in (ISOTROPY, CONTRASTIVE, SYSTEMS)]
    yield
    for registry, content in before:
        registry.clear()
        registry.update(content)


@pytest.mark.slow
@pytest.mark.usefixtures("registries")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_a_page_runs(page, place, tmp_path, monkeypatch):
    blocks = [block for block in blocks_of(page) if not block.mark]
    if not any("ragcun" in block.code for block in blocks):
        pytest.skip("no command of this page is run")
    shutil.copytree(place, tmp_path, dirs_exist_ok=True)
    for made in re.findall(r"--output_dir (checkpoints/\w+)", page.read_text(encoding="utf-8")):
        shutil.rmtree(tmp_path / made, ignore_errors=True)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks:
        own = re.match(r"# (\w+\.py)\n", block.code)
        if block.language == "python" and own:
            Path(own[1]).write_text(block.code, encoding="utf-8")
        elif block.language == "python":
            exec(compile(block.code, page.name, "exec"), names)
        else:
            for words in commands_of(block.code):
                if words[0] == "ragcun" and words[1] != "COMMAND":
                    try:
                        run_briefly([name for word in words[1:] for name in sorted(glob.glob(word)) or [word]])
                    except SystemExit:
                        pytest.fail(f"{page.name}: {shlex.join(words)}")


LOADS = re.compile(r"<(?:script|img|iframe|source|video|link)\b[^>]*?\b(?:src|href)=[\"']?(?:https?:)?//[^>]*>")
"""Tags by which a browser loads something of a host that is named, without being asked."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; links that lead nowhere and names without docstrings end the build."""
    if not (mkdocs := shutil.which("mkdocs")):
        pytest.skip("mkdocs is not installed: pip install 'ragcun[docs]'")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [mkdocs, "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert not done.returncode, done.stderr
    return folder


@pytest.mark.slow
def test_no_page_of_the_site_names_a_file_of_another_host(site):
    pages = list(site.rglob("*.html"))
    assert {page.stem for page in DOCS} <= {page.stem for page in pages}
    flags = (site / "commands.html").read_text(encoding="utf-8")
    settings = {name: each.field for command in COMMANDS for name, each in settings_of(load(command)[1]).items()}
    assert [
        name for name, field in settings.items() if not field.metadata["positional"] and f"--{name}" not in flags
    ] == []
    for page in pages:
        found = LOADS.findall(page.read_text(encoding="utf-8"))
        assert [tag for tag in found if not re.search(r"rel=[\"']?(canonical|next|prev)", tag)] == [], page.name
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//|@import", sheet.read_text(encoding="utf-8")), sheet.name


@pytest.mark.slow
def test_a_page_and_its_search_ask_no_other_host(site, browser):  # noqa: F811
    page, asked = browser.new_page(), []
    page.on("request", lambda request: asked.append(request.url))
    with listening(functools.partial(SimpleHTTPRequestHandler, directory=str(site))) as own:
        for name in ("index", "api", "lexical"):
            page.goto(f"{own}/{name}.html", wait_until="networkidle")
        page.keyboard.press("/")
        page.keyboard.type("whitening", delay=20)
        page.wait_for_selector(".md-search-result__link", state="attached")
        page.close()
    assert len(asked) > 5
    assert {url for url in asked if not url.startswith((own, "data:", "blob:"))} == set()


def test_there_are_few_pages_and_each_is_in_the_navigation():
    named = re.findall(r"([\w-]+\.md)", (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("nav:")[2])
    assert sorted({*named} - {GENERATED}) == [page.name for page in DOCS]
    assert len(named) <= 20
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 120


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_of_a_page_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or target == GENERATED or (page.parent / target).exists(), target
