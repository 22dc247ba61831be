"""Near duplicates against the similarity of all pairs, computed by a double loop."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragcun.data.texts import MOST_MISSED, PERMUTATIONS, bands, first_of_near_duplicates, text_classes, text_key


def edited(seed: int, count: int = 40, copies: int = 5) -> list[str]:
    """Texts of 60 words, each followed by copies of which more and more words are others."""
    drawn = np.random.default_rng(seed)
    texts = []
    for _ in range(count):
        words = [f"w{i}" for i in drawn.integers(0, 5000, 60)]
        for copy in range(copies):
            changed = words.copy()
            for place in drawn.permutation(60)[: copy % 7]:
                changed[place] = f"x{drawn.integers(0, 5000)}"
            texts.append(" ".join(changed))
    return [texts[i] for i in drawn.permutation(len(texts))]


def by_loop(texts: list[str], threshold: float) -> list[bool]:
    """What is kept, every pair measured from the words themselves."""
    kept: list[set[tuple[str, ...]]] = []
    answers = []
    for words in (text.lower().split() for text in texts):
        mine = {tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2))}
        answers.append(not any(len(mine & other) / len(mine | other) >= threshold for other in kept))
        kept += [mine] if answers[-1] else []
    return answers


@pytest.mark.parametrize("size", [(40, 5), (2, 100)])  # few copies of many texts, and buckets that many share
@pytest.mark.parametrize("threshold", [0.5, 0.6, 0.8, 0.9, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_matches_a_double_loop(size, threshold, seed):
    """A pair above the threshold is missed with probability 1e-4 at most."""
    texts = edited(seed, *size)
    kept = first_of_near_duplicates(texts, threshold, seed)
    assert kept.tolist() == by_loop(texts, threshold)
    assert 0 < kept.sum() < len(texts) or threshold == 1
    assert kept.dtype == np.bool_


def test_the_threshold_itself_is_near():
    texts = ["a b c d", "a b c e"]
    assert first_of_near_duplicates(texts, 1 / 3).tolist() == [True, False]
    assert first_of_near_duplicates(texts, 0.34).tolist() == [True, True]


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95])
def test_bands_find_pairs_at_the_threshold_and_longer_ones_would_not(threshold):
    count, rows = bands(threshold)
    assert count * rows <= PERMUTATIONS
    missed = (1 - threshold**rows) ** count
    assert missed <= MOST_MISSED or rows == 1
    assert (1 - threshold ** (rows + 1)) ** (PERMUTATIONS // (rows + 1)) > MOST_MISSED


@given(st.lists(st.sampled_from(["a b", "A  b", " a b\n", "ab", "Ab", "ä", "Ä", ""]), max_size=20))
def test_classes_are_of_texts_with_one_key(texts):
    classes = text_classes(texts)
    keys = [text_key(text) for text in texts]
    assert classes.tolist() == [keys.index(key) for key in keys]
