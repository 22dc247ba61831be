"""The page as a whole: structure, self-containment, hostile texts, missing pieces."""

from __future__ import annotations

import base64
import io
import itertools
import json
import re

import pytest
from matplotlib.image import imread

from ragcun.errors import InputError
from ragcun.io import write_json_lines, write_text
from ragcun.reporting.html import environment, write_report
from tests.reporting.html.conftest import HOSTILE, Page, evaluate, write_isotropy

ADDRESSES = ("href", "src", "srcset", "action", "data", "poster", "background", "xlink:href", "formaction", "cite")


def change(path, **values):
    write_text(path, json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture
def page(whole_page):
    """The page of the run that has everything."""
    return Page(whole_page)


def test_nothing_is_fetched_and_nothing_can_run(page, whole_page):
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form", "video", "audio", "svg", "source"}
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        for name in ADDRESSES:
            value = attributes.get(name)
            assert value is None or value.startswith("#" if tag == "a" else "data:image/png;base64,"), (tag, value)
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    text = whole_page.read_text()
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_the_markup_is_whole(page):
    assert page.unclosed == []
    assert page.all("html") == [{"lang": "en"}]
    assert page.all("meta")[0] == {"charset": "utf-8"}
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    targets = [link["href"][1:] for link in page.all("a")]
    assert len(targets) == 7
    assert set(targets) <= set(ids)
    labels = [attributes["aria-labelledby"] for _, attributes in page.elements if "aria-labelledby" in attributes]
    assert set(labels) <= set(ids)
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    boxes = [attributes for _, attributes in page.elements if attributes.get("class") == "scroll"]
    assert len(boxes) == len(page.all("table")) + len(page.all("img"))
    assert all(box["tabindex"] == "0" and box["aria-label"] for box in boxes)


def test_every_picture_is_inside_the_page_with_its_size_and_an_alternative_text(page):
    pictures = page.all("img")
    assert len(pictures) == 7
    for picture in pictures:
        content = base64.b64decode(picture["src"].removeprefix("data:image/png;base64,"), validate=True)
        height, width = imread(io.BytesIO(content)).shape[:2]
        assert width == pytest.approx(1.5 * int(picture["width"]), rel=0.01)
        assert width / height == pytest.approx(int(picture["width"]) / int(picture["height"]), rel=0.01)
        assert len(picture["alt"]) > 20


def test_the_same_files_give_the_same_bytes(whole_run, whole_page, tmp_path):
    assert write_report([whole_run], tmp_path / "again.html").read_bytes() == whole_page.read_bytes()


def test_a_run_with_everything_says_everything(page, whole_run):
    text = page.text
    config = (whole_run / "config.yaml").read_text()
    assert "".join(config.split()) in "".join(text.split())
    for part in ("minilm", "asymmetric", "epoch 2, chosen by dev NDCG@10", "a" * 40, "b" * 64, "torch 2.13.0"):
        assert part in text
    assert "No collapse was seen in 3 checks" in text
    assert "was not evaluated" not in text
    assert "It was not measured" not in text
    assert "effective rank" in text
    assert "a_new_measure" in text
    assert "6.25 (5.5 … 6.75)" in text


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
    assert found.unclosed == []
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


def test_a_bare_run_says_what_is_missing_and_how_to_make_it(make_run):
    run = make_run("it's a run")
    page = Page(write_report([run]))
    assert "This run was not evaluated" in page.text
    assert f"ragcun evaluate --model_path '{run}".replace("it's", "it'\"'\"'s") in page.text
    assert "ragcun isotropy" in page.text
    assert "none to show without an evaluation" in page.text
    assert len(page.all("img")) == 2


def test_an_unfinished_run_is_called_so(make_run):
    run = make_run()
    change(run / "manifest.json", status="running", result=None)
    (run / "metrics.jsonl").unlink()
    page = Page(write_report([run]))
    assert "not finished (status: running)" in page.text
    assert "--resume" in page.text
    assert "ragcun evaluate" not in page.text
    assert "has not recorded a training step" in page.text
    assert "were not monitored" in page.text


def test_a_run_without_a_manifest_or_a_gain_says_so(make_run):
    run = make_run()
    result = json.loads((run / "manifest.json").read_text())["result"]
    change(run / "manifest.json", result=result | {"best_epoch": 0, "comparison": "kept the base"})
    text = Page(write_report([run])).text
    assert "the checkpoint is the model before training" in text
    assert "kept the base." in text
    (run / "manifest.json").unlink()
    assert "no manifest.json" in Page(write_report([run])).text


def test_what_the_monitor_found_is_shown(make_run):
    run = make_run()
    with (run / "metrics.jsonl").open("a") as file:
        for step in (3, 6):
            row = {"kind": "collapse", "step": step, "collapse": "total", "message": f"all are one point at {step}"}
            file.write(json.dumps(row) + "\n")
    text = Page(write_report([run])).text
    assert "Step 3: all are one point at 3" in text
    assert "Step 6: all are one point at 6" in text
    assert "No collapse was seen" not in text


def test_several_runs_stand_side_by_side(make_run, data_dir, tmp_path):
    runs = [make_run(name, seed=seed) for name, seed in (("one", 3), ("two", 4))]
    evaluate(runs[0], data_dir, names=["plain"], ranks=((3, 1), (0, 1)))
    evaluate(runs[1], data_dir, names=["plain"], ranks=((3, 1), (9,)))
    write_isotropy(tmp_path / "both.json", *(str(run / "best_model") for run in runs))
    page = Page(write_report(runs, tmp_path / "page.html", isotropy=[tmp_path / "both.json"]))
    assert page.unclosed == []
    comparison = page.text[page.text.index("Each run is tested") : page.text.index("base model minilm")]
    for part in ("NDCG@10 on plain", "better", "worse", "settings that differ", "seed 3 4"):
        assert part in comparison
    assert "freeze_base" not in comparison
    assert "minilm (untouched), on plain one, on plain two, on plain" in comparison
    assert [page.text.count(f"Run {name}") for name in ("one", "two")] == [2, 2]
    assert len({attributes["id"] for _, attributes in page.elements if "id" in attributes}) == 2 + 7 * 2


def test_runs_of_one_name_are_told_apart(make_run, tmp_path):
    runs = [make_run("a/run"), make_run("b/run")]
    text = Page(write_report(runs, tmp_path / "page.html")).text
    assert all(f"Run {run}" in text for run in runs)


def test_the_page_is_complete_or_absent(make_run, data_dir, tmp_path):
    run = make_run()
    evaluate(run, data_dir, names=["plain"])
    page = write_report([run])
    before = page.read_bytes()
    write_text(run / "results.runs" / "plain" / "model.trec", "q0 Q0 d0 1 nan tag\n")
    with pytest.raises(InputError, match=r"model\.trec, line 1"):
        write_report([run])
    assert page.read_bytes() == before
    assert not [path for path in run.iterdir() if path.suffix == ".tmp"]


@pytest.mark.parametrize(
    ("names", "place", "message"),
    [([], {}, "at least one"), (["a", "b"], {}, "--output"), (["a"], {"data_dir": "nowhere"}, "nowhere"),
     (["a"], {"output": "."}, "is a folder")],
)  # fmt: skip
def test_it_must_be_clear_what_is_read_and_written_where(make_run, names, place, message):
    with pytest.raises(InputError, match=message):
        write_report([make_run(name) for name in names], **place)
