import textwrap
import warnings

import pytest

from ragcun.data.beir import Document
from ragcun.data.python_docs import FILES_PER_PROCESS, DocEntry, build, distinct, extract, split_docstring
from ragcun.errors import InputError

REST = " ".join(f"word{i}" for i in range(20))


def function(name, summary, rest=REST, arguments="x", indent=""):
    source = f'def {name}({arguments}):\n    """{summary}\n\n    {rest} {name}\n    """\n\n'
    return textwrap.indent(source, indent)


def write(root, path, source):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(source, encoding="utf-8")


@pytest.fixture
def root(tmp_path):
    inside = "    "
    source = [
        'raise RuntimeError("imported")\n',
        function("norm", "Return the norm of a vector.", arguments="x, ord=None, axis=None"),
        function("_private", "Return what nobody may see."),
        function("short", "Too short"),
        function("bare", "Return something without more words.", rest=""),
        f'class Thing:\n    """Hold one thing of a size. It can turn.\n\n    {REST} Thing\n    """\n',
        "    def __init__(self, size, *, deep=True):\n        pass\n\n",
        function("turn", "Turn the thing around once.", arguments="self, angle: float = 1.0", indent=inside),
        function("_hidden", "Never to be seen by anyone.", indent=inside),
        "class _Secret:\n",
        function("method", "Belong to a secret class.", indent=inside),
        function("outer", "Stand around another function here."),
        function("inner", "Sit inside of another function.", indent=inside),
        "try:\n    pass\nexcept ImportError:\n",
        function("fallback", "Replace what is not there.", indent=inside),
    ]
    write(tmp_path, "pkg/__init__.py", "".join(source))
    write(tmp_path, "pkg/mod.py", function("async_like", "Wait for a while first.").replace("def", "async def"))
    for path in ("pkg/_impl.py", "pkg/tests/a.py", "pkg/test_a.py", "pkg/conftest.py", "_top.py", "ragcun/losses.py"):
        write(tmp_path, path, function("unwanted", f"Return something from {path} here."))
    write(tmp_path, "pkg/broken.py", "def (:\n")
    write(tmp_path, "pkg/warns.py", 'PATTERN = "\\d"\n1 is 1\n')
    write(tmp_path, "not-a-name/mod.py", function("unwanted", "Return a thing from nowhere."))
    latin = b'"""\xe9"""\n' + function("latin", "Be written in latin one.").encode()
    (tmp_path / "pkg" / "latin.py").write_bytes(latin)
    return tmp_path


def test_public_definitions_alone_are_documented_and_no_warning_is_shown(root):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        entries = {entry.name: entry for entry in extract([root])}
    names = ["pkg.Thing", "pkg.Thing.turn", "pkg.fallback", "pkg.mod.async_like", "pkg.norm", "pkg.outer"]
    assert list(entries) == names
    norm = entries["pkg.norm"]
    assert norm.summary == "Return the norm of a vector."
    assert (norm.signature, norm.rest) == ("norm(x, ord=None, axis=None)", f"{REST} norm")
    assert entries["pkg.Thing.turn"].signature == "turn(angle: float=1.0)"
    assert entries["pkg.Thing"].signature == "Thing(size, *, deep=True)"
    assert entries["pkg.Thing"].summary == "Hold one thing of a size."
    assert entries["pkg.Thing"].rest == f"It can turn.\n\n{REST} Thing"


def test_packages_narrow_what_is_read_and_nothing_found_is_refused(root):
    write(root, "other.py", function("more", "Return one more thing here."))
    assert [entry.name for entry in extract([root], ["other"])] == ["other.more"]
    with pytest.raises(InputError, match="'absent'"):
        extract([root], ["other", "absent"])
    (root / "empty").mkdir()
    with pytest.raises(InputError, match="no documented"):
        extract([root / "empty"])
    with pytest.raises(InputError, match="no such folder"):
        extract([root / "absent"])


def test_first_root_wins(root, tmp_path_factory):
    second = tmp_path_factory.mktemp("second")
    write(second, "pkg/mod.py", function("async_like", "Say something else than before."))
    write(second, "pkg/new.py", function("new", "Say something new at last."))
    entries = {entry.name: entry.summary for entry in extract([root, second])}
    assert entries["pkg.mod.async_like"] == "Wait for a while first."
    assert entries["pkg.new.new"] == "Say something new at last."


def test_many_files_give_the_same_in_several_processes(tmp_path):
    names = sorted(f"m{i}" for i in range(FILES_PER_PROCESS + 1))
    for name in names:
        write(tmp_path, f"{name}.py", function("f", f"Return the answer of {name}.", rest=f"{REST} {name}"))
    assert [entry.name for entry in extract([tmp_path])] == [f"{name}.f" for name in names]


def test_every_query_has_one_answer():
    entries = [
        DocEntry("b.same", "Return the thing twice.", "same()", "one  rest\nhere"),
        DocEntry("a.same", "Return the thing twice.", "same()", "one rest here"),
        DocEntry("c.vague", "Return a new array.", "vague()", "c rest"),
        DocEntry("d.vague", "return a new Array.", "vague()", "d rest"),
        DocEntry("e.echo", "Say it once more.", "echo()", "You see: say it\n once more. Indeed"),
        DocEntry("f.good", "Return something quite unique.", "good()", "f rest"),
        DocEntry("f.good", "Another of the same name.", "good()", "g rest"),
    ]
    assert [(entry.name, entry.summary) for entry in distinct(entries)] == [
        ("a.same", "Return the thing twice."),
        ("f.good", "Return something quite unique."),
    ]


@pytest.mark.parametrize(
    ("docstring", "summary", "rest"),
    [
        ("", "", ""),
        ("One line only", "One line only", ""),
        ("Wrapped over\n two lines.\n\nMore.", "Wrapped over two lines.", "More."),
        ("First one. Second one.\n\nMore.", "First one.", "Second one.\n\nMore."),
        ("Take files, e.g. Python ones. Then stop.", "Take files, e.g. Python ones.", "Then stop."),
        ("Version 3.5 is fine", "Version 3.5 is fine", ""),
        ("What now? ``This``.", "What now?", "``This``."),
    ],
)
def test_summary_is_the_first_sentence(docstring, summary, rest):
    assert split_docstring(docstring) == (summary, rest)


ENTRIES = [DocEntry(f"m.f{i}", f"Return the number {i}.", f"f{i}()", f"rest {i}") for i in range(100)]


def test_splits_are_disjoint_and_follow_the_seed_and_not_the_order_of_entries():
    documents, queries, qrels_by_split = build(ENTRIES, None, seed=0)
    assert {split: len(qrels) for split, qrels in qrels_by_split.items()} == {"train": 80, "dev": 10, "test": 10}
    assert documents["m.f3"] == Document("m.f3", "f3()\nrest 3")
    judged = [(query, answers) for qrels in qrels_by_split.values() for query, answers in qrels.items()]
    assert {query for query, _ in judged} == set(queries)
    assert sorted(document for _, answers in judged for document in answers) == sorted(documents)
    for query, answers in judged:
        (document,) = answers
        assert query != document
        assert queries[query] not in documents[document].content
    assert build(ENTRIES, 50, seed=1) == build(ENTRIES[::-1], 50, seed=1)
    few, more, other = (build(ENTRIES, count, seed)[0] for count, seed in ((20, 1), (50, 1), (50, 2)))
    assert few.items() <= more.items()
    assert more.keys() != other.keys()
    assert set(build(ENTRIES, None, 0, (0.0, 0.5, 0.5))[2]) == {"dev", "test"}
