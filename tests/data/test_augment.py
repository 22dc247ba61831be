"""Pairs from documents: what each way to make them promises, and that nothing depends on the company or the order."""

import math
import random
import re
from collections import Counter
from itertools import combinations, pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ragcun.data.beir import Document, write_collection
from ragcun.data.synthetic_queries import (
    FEWEST_WORDS,
    MASKS,
    PAIR_MAKERS,
    mask_words,
    masked_positions,
    pair_maker,
    pairs_from_documents,
    pairs_of_document,
    spread,
)
from ragcun.data.texts import UNSPACED, WORDS, first_of_near_duplicates, sentence_spans, split_sentences
from ragcun.errors import InputError

TEXT = st.text(st.sampled_from("ab. !?Z\n\u3000é。1") | st.characters(), max_size=120) | st.lists(
    st.sampled_from(["word", "Dr.", "e.g.", "End.", "日本。", "3.5"]) | st.text(min_size=1, max_size=5), max_size=40
).flatmap(lambda words: st.sampled_from([" ", "  ", "\n", " \u2003"]).map(lambda blank: blank.join(words)))
SPACED = TEXT.map(lambda text: re.sub(f"[{UNSPACED}]", "x", text))
DOCUMENT = st.builds(Document, st.text(max_size=8), TEXT)
MASK_METHODS = st.sampled_from(MASKS)
SHARES = st.floats(0.01, 0.99)


def words(n):
    return " ".join(f"w{i}" for i in range(n))


def pairs(document, method, seed=0, times=1):
    return pairs_of_document(document, pair_maker(method), seed, times)


def prose(n, seed=0):
    """Return documents of 4 to 9 sentences of 4 to 8 words, all different; two in three have a title."""
    rng = random.Random(seed)

    def sentence():
        return " ".join(f"w{rng.randrange(10**6)}" for _ in range(rng.randint(4, 8))).capitalize() + "."

    titles = [f"Title {i}" if i % 3 < 2 else "" for i in range(n)]
    return [Document(title, " ".join(sentence() for _ in range(rng.randint(4, 9)))) for title in titles]


# sentences


@pytest.mark.parametrize(
    "sentences",
    [
        ["Dr. Wu met Mr. J. R. Smith et al. in St. Louis.", "It rained."],
        ["Use e.g. 3.5 mg, i.e. little, vs. Eq. 4 of Fig. 2.", "Then stop!", "Why?", "See No. 5 and pp. 3."],
        ["He said no.", "She left."],
        ["“Is it so?”", "(It is.)", '"Well!"', "…"],
        ["Wait... what?!", "Yes…", "No."],
        ["The U.S. Army v. 2.0 arrived.", "3 men left."],
        ["p < .05 was found in 1999.", "Ärger folgte."],
        ["'What?' he asked."],
        ["no marks at all"],
    ],
)
def test_sentences_are_found_again(sentences):
    assert split_sentences(" ".join(sentences)) == sentences
    assert split_sentences("\n  ".join(sentences) + "\n") == sentences


def test_sentences_without_blanks_and_paragraphs():
    assert split_sentences("これは何。本です！「はい。」次") == ["これは何。", "本です！", "「はい。」", "次"]
    assert split_sentences("A heading\n \nthe text. more") == ["A heading", "the text. more"]
    assert split_sentences(" \n\n ") == []


@given(text=TEXT)
def test_sentences_hold_every_word_in_order(text):
    spans = list(sentence_spans(text))
    assert "".join("".join(text[start:end].split()) for start, end in spans) == "".join(text.split())
    assert all(text[start:end] == text[start:end].strip() != "" for start, end in spans)
    assert all(before[1] <= after[0] for before, after in pairwise(spans))


# masking


def masked(text, method, share, seed, mask):
    pair = mask_words(Document("", text), random.Random(seed), method, share, mask)
    assert pair is None or pair[1] == text.strip()
    return pair and pair[0]


@given(text=SPACED, method=MASK_METHODS, share=SHARES, seed=st.integers(0, 99), blank=st.sampled_from(["", " "]))
def test_exactly_the_share_is_masked_and_the_rest_is_as_it_was(text, method, share, seed, blank):
    assume("#" not in text)
    after = masked(text, method, share, seed, "#")
    dropped = masked(text, method, share, seed, blank)
    before, expected = text.split(), max(1, round(share * len(text.split())))
    if after is None:
        assert dropped is None
        assert len(before) - expected < FEWEST_WORDS
        return
    words = after.split()
    assert [word == "#" for word in words].count(True) == expected
    assert all(new in (old, "#") for old, new in zip(before, words, strict=True))
    assert re.findall(r"\s+", after) == re.findall(r"\s+", text.strip())
    assert dropped.split() == [word for word in words if word != "#"]
    assert dropped == dropped.strip() != ""


@given(n=st.integers(4, 60), share=SHARES, seed=st.integers(0, 99))
def test_prefix_and_suffix_mask_the_ends_and_mixed_is_one_of_all(n, share, seed):
    count = max(1, round(share * n))
    positions = {method: masked_positions(method, n, count, random.Random(seed)) for method in MASKS}
    assert positions["prefix"] == set(range(count))
    assert positions["suffix"] == set(range(n - count, n))
    rng = random.Random(seed)
    chosen = rng.choice([method for method in MASKS if method != "mixed"])
    assert positions["mixed"] == masked_positions(chosen, n, count, rng)


@given(n=st.integers(1, 60), share=st.floats(0, 1), length=st.integers(1, 7), seed=st.integers(0, 99))
def test_spans_are_runs_of_their_length(n, share, length, seed):
    count = round(share * n)
    positions = sorted(spread(n, count, length, random.Random(seed)))
    assert len(positions) == count
    assert all(0 <= position < n for position in positions)
    runs = [[position] for position in positions[:1]]
    for before, position in pairwise(positions):
        runs[-1].append(position) if position == before + 1 else runs.append([position])
    # runs may meet, so each is a sum of whole spans, one of them with the one shorter span too
    assert sum(len(run) % length != 0 for run in runs) <= (1 if count % length else 0)


def test_every_placing_is_as_likely():
    """8000 draws of 2 words of 5: each of the 10 placings is binomial(8000, 1/10), sd 26.8; 5 sd is 134."""
    rng = random.Random(0)
    drawn = Counter(frozenset(spread(5, 2, 1, rng)) for _ in range(8000))
    assert set(drawn) == {frozenset(pair) for pair in combinations(range(5), 2)}
    assert all(abs(count - 800) < 134 for count in drawn.values())


# parts of documents


@given(document=DOCUMENT, method=st.sampled_from(["half", "random", "prefix_suffix"]), seed=st.integers(0, 99))
def test_the_two_parts_are_the_document_or_its_outer_thirds(document, method, seed):
    content = document.content
    for query, positive in pairs(document, method, seed, 3):
        assert content.startswith(query)
        assert content.endswith(positive)
        if method == "prefix_suffix":
            assert len(re.findall(WORDS, query)) == len(re.findall(WORDS, positive))
        else:
            assert not content[len(query) : len(content) - len(positive)].strip()


@pytest.mark.parametrize("n", range(6, 30))
def test_where_documents_are_cut(n):
    document = Document("", words(n))
    (half,) = pairs(document, "half")
    assert len(half[0].split()) == math.ceil(n / 2)
    cuts = {len(query.split()) for query, _ in pairs(document, "random", times=500)}
    earliest = max(FEWEST_WORDS, math.ceil(n / 4))
    # the chance that one of k cuts is never drawn is below k (1 - 1/k)^500 < 1e-12 for k <= 16
    assert cuts == set(range(earliest, n - earliest + 1))


def test_title_and_sentences():
    document = Document("The title", "It is a start. Middle of the text. An end it has.")
    first = ("It is a start.", "The title Middle of the text. An end it has.")
    others = {
        ("Middle of the text.", "The title It is a start. An end it has."),
        ("An end it has.", "The title It is a start. Middle of the text."),
    }
    assert pairs(document, "title_body") == [(document.title, document.text)]
    assert pairs(document, "first_sentence") == [first]
    assert set(pairs(document, "sentence", times=100)) == {first, *others}  # (2/3)^100 that one is missed: below 1e-17
    repeated = Document("", "All rights are reserved. This one is unique. All Rights Are Reserved.")
    unique = ("This one is unique.", "All rights are reserved. All Rights Are Reserved.")
    assert pairs(repeated, "sentence", times=50) == [unique]


UNSPACED_TEXTS = {
    "Chinese": ("怎样清洗水壶？", "先用湿布擦净水壶。再放在阴凉处晾干！最后用软刷把它擦亮。"),
    "Japanese": ("やかんを洗う", "湿った布でやかんを拭きます。日陰で乾かします。最後に柔らかいブラシで磨きます。"),
    "Thai": ("ทำความสะอาดกาน้ำ", "ใช้ผ้าชื้นเช็ดกาน้ำให้สะอาด\n\nผึ่งให้แห้งในที่ร่ม\n\nแล้วขัดด้วยแปรงขนนุ่ม"),
}


@pytest.mark.parametrize("method", PAIR_MAKERS)
@pytest.mark.parametrize("language", UNSPACED_TEXTS)
def test_scripts_without_blanks_make_the_same_pairs(language, method):
    document = Document(*UNSPACED_TEXTS[language])
    made = pairs(document, method)
    assert made
    marks = "\u0e31\u0e34\u0e35\u0e36\u0e37\u0e38\u0e39\u0e48\u0e49"
    assert not any(text.startswith(tuple(marks)) for pair in made for text in pair)
    if method == "half":
        query, positive = made[0]
        assert "".join(query.split() + positive.split()) == "".join(document.content.split())
        assert abs(len(query) - len(positive)) < 0.2 * len(document.text)
    if method.startswith("mask"):
        assert "[MASK]" in made[0][0]


def test_near_duplicates_are_found_in_scripts_without_blanks():
    text = UNSPACED_TEXTS["Chinese"][1] * 3
    texts = [text, text.replace("软刷", "毛刷", 1), UNSPACED_TEXTS["Japanese"][1]]
    assert first_of_near_duplicates(texts, 0.8).tolist() == [True, False, True]


# what all methods share


@settings(deadline=None)
@given(document=DOCUMENT, method=st.sampled_from(sorted(PAIR_MAKERS)), seed=st.integers(0, 99))
def test_no_text_is_ever_short(document, method, seed):
    for query, positive in pairs(document, method, seed, 2):
        assert len(re.findall(WORDS, query.replace("[MASK]", " [MASK] "))) >= (
            1 if method == "title_body" else FEWEST_WORDS
        )
        assert len(re.findall(WORDS, positive)) >= FEWEST_WORDS
        assert (query, positive) == (query.strip(), positive.strip())


@pytest.mark.parametrize("method", PAIR_MAKERS)
def test_short_documents_make_no_pair_and_only_a_drawn_one_follows_from_the_seed(method):
    short = [Document("", text) for text in ("", "a", "Two words.", "字" * 4)] + [Document("Title", "")]
    assert not any(pairs(document, method) for document in short)
    first, again, other = ([pairs(document, method, seed) for document in prose(40)] for seed in (1, 1, 2))
    assert first == again
    assert (first != other) == (method in ("sentence", "random", "mask_tokens", "mask_spans", "mask_mixed"))
    few, many = (pairs(prose(1)[0], method, times=n) for n in (2, 20))
    assert many[: len(few)] == few
    assert len(set(many)) == len(many)


def test_masks_by_name_take_a_share_and_a_mask():
    document = Document("", words(10))
    for arguments, masked in (((0.5, "_"), "_ _ _ _ _ w5 w6 w7 w8 w9"), ((None, ""), "w2 w3 w4 w5 w6 w7 w8 w9")):
        assert pairs_of_document(document, pair_maker("mask_prefix", *arguments), 0) == [(masked, document.text)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("halves",), "did you mean 'half'"),
        (("zzz",), "there is title_body, first_sentence"),
        (("half", 0.2), "masks nothing"),
        (("half", None, ""), "masks nothing"),
        *((("mask_tokens", share), f"got {share}") for share in (0.0, 1.0, 1.5)),
    ],
)
def test_impossible_methods_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        pair_maker(*arguments)


def test_pairs_from_a_file(tmp_path, caplog):
    caplog.set_level("INFO")
    documents = [Document("", "too short"), *prose(5)]
    corpus = {str(i): document for i, document in enumerate(documents)}
    write_collection(tmp_path / "c", corpus, {"q": "?"}, {"test": {"q": {"0": 1}}})
    made = pairs_from_documents(tmp_path / "c", "half", seed=3)
    assert list(made.rows()) == [(*pair, None) for document in documents for pair in pairs(document, "half", 3)]
    assert made.source == f"{tmp_path / 'c'} (half)"
    assert "1 of 6 documents are too short" in caplog.text
    (tmp_path / "short.txt").write_text("one\ntwo\n")
    with pytest.raises(InputError, match=r"short.txt: none of its 2 documents is long enough for pairs by 'half'"):
        pairs_from_documents(tmp_path / "short.txt", "half", 0)
    with pytest.raises(InputError, match="unknown method 'no'"):
        pairs_from_documents(tmp_path / "absent", "no", 0)
