"""A checkpoint folder remembers which documents were hidden from training, and is refused where that was changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ragcun.data.overlap import HELD_OUT, HoldOut, read_held_out, read_seen, text_hashes
from ragcun.embeddings.text_base import TextBase
from ragcun.errors import InputError
from ragcun.models.encoder import RetrievalEncoder
from ragcun.models.systems import IsotropicGaussianEncoder

GIVEN = HoldOut(0.3, 17)


@pytest.fixture(scope="module")
def encoder(tiny_bert: str) -> IsotropicGaussianEncoder:
    return IsotropicGaussianEncoder(TextBase.load(tiny_bert, device="cpu"))


@pytest.fixture(scope="module")
def saved(encoder: IsotropicGaussianEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    encoder.save_pretrained(folder, held_out=GIVEN)
    return folder


@pytest.mark.parametrize("held_out", [HoldOut(0.1, 0), HoldOut(1 / 3, -(2**63)), HoldOut(1 - 2**-53, 2**63 - 1)])
@pytest.mark.parametrize("seen", [None, text_hashes(["one", "two"])])
def test_what_is_hidden_survives_the_folder(
    encoder: IsotropicGaussianEncoder, tmp_path: Path, held_out: HoldOut, seen: frozenset[str] | None
) -> None:
    encoder.save_pretrained(tmp_path / "model", seen=seen, held_out=held_out)
    assert read_held_out(tmp_path / "model") == held_out
    assert read_seen(tmp_path / "model") == seen


def test_it_changes_no_embedding(saved: Path, encoder: IsotropicGaussianEncoder, texts: list[str]) -> None:
    again = RetrievalEncoder.from_pretrained(saved, device="cpu")
    np.testing.assert_array_equal(again.encode_document(texts[:9]), encoder.encode_document(texts[:9]))


def test_a_folder_written_over_forgets(saved: Path, encoder: IsotropicGaussianEncoder, tmp_path: Path) -> None:
    """A hold-out of an earlier model in the same place says nothing about the one that takes it."""
    shutil.copytree(saved, tmp_path / "model")
    encoder.save_pretrained(tmp_path / "model")
    assert read_held_out(tmp_path / "model") is None
    assert not (tmp_path / "model" / HELD_OUT).exists()


def _other_fraction(file: Path) -> None:
    file.write_text(json.dumps(HoldOut(0.2, GIVEN.seed).to_dict()))


def _other_seed(file: Path) -> None:
    file.write_text(json.dumps(HoldOut(GIVEN.fraction, GIVEN.seed + 1).to_dict()))


@pytest.mark.parametrize("change", [_other_fraction, _other_seed, Path.unlink, lambda file: file.write_text("{}")])
def test_a_changed_hold_out_is_refused(saved: Path, tmp_path: Path, change: Callable[[Path], object]) -> None:
    shutil.copytree(saved, tmp_path / "model")
    change(tmp_path / "model" / HELD_OUT)
    with pytest.raises(InputError, match=r"held_out\.json") as caught:
        RetrievalEncoder.from_pretrained(tmp_path / "model")
    assert "\n" not in str(caught.value)
