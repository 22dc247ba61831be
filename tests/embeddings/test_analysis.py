import logging

import bm25s
import pytest
import Stemmer
from hypothesis import given, settings
from hypothesis import strategies as st

from ragcun.embeddings.analysis import Analyser, TermCounter, detect_language
from ragcun.errors import InputError
from ragcun.retrieval.bm25 import BM25

TEXTS = {
    "en": "How are the kettles cleaned, and where do they dry?",
    "de": "Wie man die Kessel reinigt und auf dem Boden abstellt",
    "fr": "Le chat est dans la maison et il ne veut pas sortir",
    "ru": "Как чистить чайники",
    "ar": "كيف يتم تنظيف المدارس",
    "hi": "उन्होंने किताबें पढ़ीं",
    "zh": "这是怎样清洗水壶的 PCB 板。水",
    "ja": "これは日本語のテキストです",
    "ko": "한국어 문장입니다",
    "th": "น้ำร้อนมาก",
    "none": "ሰላም ለዓለም",
}


@pytest.mark.parametrize(("language", "text"), TEXTS.items(), ids=TEXTS)
def test_the_language_is_that_of_the_script_or_of_the_stop_words(language, text, caplog):
    with caplog.at_level(logging.INFO):
        assert detect_language([text]) == language
    assert len(caplog.records) == 1


def test_no_words_or_no_stop_words_are_read_as_english():
    assert [detect_language(texts) for texts in ([], [""], ["zebra tiger lion"])] == ["en"] * 3
    with pytest.raises(InputError, match="klingon"):
        Analyser.of(["text"], "klingon")


@settings(deadline=None)  # the first example imports bm25s
@given(st.lists(st.text(st.sampled_from("abZé9_ -.\nthe水ß"), max_size=30), max_size=4))
def test_english_terms_are_those_of_bm25s(texts):
    stemmer = Stemmer.Stemmer("english")
    expected = bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, return_ids=False, show_progress=False)
    assert Analyser("en")(texts) == expected


def test_terms_of_other_scripts():
    assert Analyser("zh")([TEXTS["zh"]]) == [
        ["这是", "是怎", "怎样", "样清", "清洗", "洗水", "水壶", "壶的", "pcb", "板", "水"]
    ]
    assert Analyser("ru")(["чайники чайник"]) == [["чайник", "чайник"]]
    assert len(Analyser("hi")([TEXTS["hi"]])[0]) == 3  # vowel signs do not cut a word


@pytest.mark.parametrize("language", ["en", "zh"])
def test_counts_are_those_of_the_terms_in_any_blocks(language):
    texts, analyser = list(TEXTS.values()), Analyser(language)
    counter = TermCounter(analyser)
    blocks = [counter.count(texts[:3]), counter.count(texts[3:])]
    for text, row in zip(texts, [row for block in blocks for row in block.toarray()], strict=True):
        (terms,) = analyser([text])
        names = list(counter.vocabulary)
        assert {names[i]: n for i, n in enumerate(row) if n} == {term: terms.count(term) for term in terms}


def test_bm25_ranks_texts_without_blanks():
    documents = {"d0": "用湿布擦拭水壶，放在阴凉处晾干", "d1": "把雨伞放在干燥的柜子里"}
    run = BM25(documents).run({"q0": "水壶应该怎么清洗？", "q1": "雨伞怎么存放？"})
    assert [next(iter(ranking)) for ranking in run.values()] == ["d0", "d1"]
