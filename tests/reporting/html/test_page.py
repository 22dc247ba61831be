"""The page as a whole: structure, self-containment, hostile texts, missing pieces."""

import base64
import io
import itertools
import json
import re
import shlex

import pytest
from matplotlib.image import imread

from ragcun.errors import InputError
from ragcun.io import write_json_lines, write_text
from ragcun.reporting.html import environment, write_report
from tests.reporting.html.conftest import HOSTILE, Page, evaluate, write_isotropy

ADDRESSES = {"href", "src", "srcset", "action", "data", "poster", "background", "xlink:href", "formaction", "cite"}


def change(path, **values):
    write_text(path, json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture
def page(whole_page):
    """The page of the run that has everything."""
    return Page(whole_page)


def test_nothing_is_fetched_and_nothing_can_run(page):
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form", "video", "audio", "svg", "source"}
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        for name in ADDRESSES & attributes.keys():
            assert attributes[name].startswith("#" if tag == "a" else "data:image/png;base64,"), (tag, attributes)
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert not re.search(r"url\(|@import", page.root.find("head/style").text)


def test_the_markup_is_whole(page):
    assert page.all("html") == [{"lang": "en"}]
    assert page.all("meta")[0] == {"charset": "utf-8"}
    ids, targets = [page.root.findall(f".//*[@{name}]") for name in ("id", "href")]
    ids = [element.get("id") for element in ids]
    assert len(set(ids)) == len(ids)
    assert len(targets) == 7
    labels = {element.get("aria-labelledby") for element in page.root.findall(".//*[@aria-labelledby]")}
    assert labels | {link.get("href")[1:] for link in targets} <= set(ids)
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert (levels[0], levels.count(1)) == (1, 1)
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    boxes = page.root.findall(".//*[@class='scroll']")
    assert len(boxes) == len(page.all("table")) + len(page.all("img"))
    assert all(box.get("tabindex") == "0" and box.get("aria-label") for box in boxes)


def test_every_picture_is_inside_the_page_with_its_size_and_an_alternative_text(page):
    pictures = page.all("img")
    assert len(pictures) == 7
    for picture in pictures:
        content = base64.b64decode(picture["src"].removeprefix("data:image/png;base64,"), validate=True)
        height, width = imread(io.BytesIO(content)).shape[:2]
        assert width == pytest.approx(1.5 * int(picture["width"]), rel=0.01)
        assert width / height == pytest.approx(int(picture["width"]) / int(picture["height"]), rel=0.01)
        assert len(picture["alt"]) > 20


def test_a_run_with_everything_says_everything_and_the_same_twice(page, whole_run, whole_page, tmp_path):
    config = (whole_run / "config.yaml").read_text()
    assert "".join(config.split()) in "".join(page.text.split())
    for part in ("epoch 2, chosen by dev NDCG@10", "a" * 40, "b" * 64, "torch 2.13.0", "seen in 3 checks"):
        assert part in page.text
    assert "was not" not in page.text
    assert write_report([whole_run], tmp_path / "again.html").read_bytes() == whole_page.read_bytes()


def test_what_an_evaluation_chose_is_said_with_the_reason(make_run, data_dir, tmp_path):
    results = evaluate(run := make_run(), data_dir)
    records = {"weight": {"chosen": 0.3, "why": "no dev queries <to> choose by"}}
    change(run / "results.json", manifest=results["manifest"] | {"chosen": {"bm25": {"plain": records}}})
    page = Page(write_report([run], tmp_path / "p.html"))
    assert "plain, bm25: weight 0.3: no dev queries <to> choose by" in page.text


def test_hostile_texts_are_shown_and_do_nothing(page, whole_page):
    assert '<script>alert("x")</script><img src=x onerror=alert(1)>' in page.text
    assert "⟨U+202E⟩abc⟨U+2066⟩ ⟨U+0007⟩" in page.text
    assert "{{ 7919 * 7907 }}" in page.text
    assert str(7919 * 7907) not in page.text
    raw = whole_page.read_bytes()
    assert not set(b"\x00\x07\x1b") & set(raw)
    assert not set("\u202a\u202b\u202d\u202e\u2066\u2067\u2068") & set(raw.decode())


def test_hostile_names_and_settings_are_shown_and_do_nothing(make_run, tmp_path):
    run = make_run("<b>&run", system=HOSTILE, base_model=f"\ud7ff{HOSTILE}")
    change(run / "manifest.json", command=f"{HOSTILE}\ud800", git_commit=[HOSTILE], packages={HOSTILE: HOSTILE})
    rows = [{"kind": "collapse", "step": HOSTILE, "collapse": HOSTILE, "message": HOSTILE}]
    write_json_lines(run / "metrics.jsonl", rows)
    found = Page(write_report([run], tmp_path / "page.html"))
    assert not found.all("script")
    assert not found.all("img")
    assert "⟨U+D800⟩" in found.text
    assert found.text.count('<script>alert("x")</script>') >= 6
    assert "<b>&run" in found.text


def test_every_expression_is_escaped_whatever_template_writes_it():
    made = environment().from_string("<p title='{{ x }}'>{{ x }}{{ [x]|join }}</p>").render(x="'<\x1b>\u202e")
    assert made == "<p title='" + "&#39;&lt;⟨U+001B⟩&gt;⟨U+202E⟩" + "'>" + 2 * "&#39;&lt;⟨U+001B⟩&gt;⟨U+202E⟩" + "</p>"
    sources = [environment().loader.get_source(environment(), name)[0] for name in environment().list_templates()]
    assert len(sources) >= 3
    assert not [source for source in sources if re.search(r"\|\s*safe|Markup|autoescape", source)]


def test_what_is_missing_is_said_with_the_command_that_makes_it(make_run):
    run = make_run("it's a run")
    page = Page(write_report([run]))
    assert f"ragcun evaluate --model_path {shlex.quote(str(run / 'best_model'))}" in page.text
    for part in ("This run was not evaluated", "ragcun isotropy", "none to show without an evaluation"):
        assert part in page.text
    assert len(page.all("img")) == 2
    write_isotropy(run / "isotropy.json", str(run / "best_model"), judged=False)
    page = Page(write_report([run]))
    assert "plain: 150 documents, no queries" in page.text
    assert "no system has judged queries" in page.text
    assert len(page.all("img")) == 2 + 4


COLLAPSES = [{"kind": "collapse", "step": step, "message": f"one point at {step}"} for step in (3, 6)]


@pytest.mark.parametrize(
    ("manifest", "rows", "said", "unsaid"),
    [
        ({"status": "running", "result": None}, [], ["not finished (status: running)", "--resume"], "ragcun evaluate"),
        ({"result": {"best_epoch": 0, "comparison": "kept it"}}, [], ["the model before training", "kept it."], "seen"),
        (None, [], ["no manifest.json", "has not recorded a training step", "were not monitored"], "kept"),
        ({}, COLLAPSES, ["Step 3: one point at 3", "Step 6: one point at 6"], "No collapse was seen"),
    ],
)
def test_the_state_of_a_run_is_told(make_run, manifest, rows, said, unsaid):
    run = make_run()
    write_json_lines(run / "metrics.jsonl", rows)
    if manifest is None:
        (run / "manifest.json").unlink()
    else:
        change(run / "manifest.json", **manifest)
    text = Page(write_report([run])).text
    assert all(part in text for part in said)
    assert unsaid not in text


def test_several_runs_stand_side_by_side(make_run, data_dir, tmp_path):
    runs = [make_run(name, seed=seed) for name, seed in (("one", 3), ("two", 4))]
    for run, ranks in zip(runs, ((0, 1), (9,)), strict=True):
        evaluate(run, data_dir, names=["plain"], ranks=((3, 1), ranks))
    write_isotropy(tmp_path / "both.json", *(str(run / "best_model") for run in runs))
    page = Page(write_report(runs, tmp_path / "page.html", isotropy=[tmp_path / "both.json"]))
    comparison = page.text[page.text.index("Each run is tested") : page.text.index("base model minilm")]
    for part in ("NDCG@10 on plain", "better", "worse", "settings that differ", "seed 3 4"):
        assert part in comparison
    assert "freeze_base" not in comparison
    assert "minilm (untouched), on plain one, on plain two, on plain" in comparison
    for number, run in enumerate(runs, start=1):
        assert page.text.count(f"Run {run.name}") == 2
        assert f"measure minilm (untouched) {run / 'best_model'} isotropic rows" in page.text
        assert f"a_new_measure 0.5 {number}.5 – 40" in page.text
    assert "6.25 (5.5 … 6.75) 6.25 (5.5 … 6.75) 7.875 50" in page.text
    assert "largest / smallest eigenvalue – – – 50" in page.text


@pytest.mark.parametrize(
    ("names", "place", "message"),
    [([], {}, "at least one"), (["a", "b"], {}, "--output"), (["a"], {"data_dir": "nowhere"}, "nowhere"),
     (["a"], {"output": "."}, "is a folder")],
)  # fmt: skip
def test_it_must_be_clear_what_is_read_and_written_where(make_run, names, place, message):
    with pytest.raises(InputError, match=message):
        write_report([make_run(name) for name in names], **place)
