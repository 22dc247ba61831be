"""Every file of a checkpoint, damaged in every way, is refused: 0 checkpoints load wrongly."""

from __future__ import annotations

from pathlib import Path

from benchmarks.mutations import KINDS, NOT_COVERED, failures, outcomes, table, tiny_checkpoint


def test_no_mutation_of_a_checkpoint_loads(tmp_path: Path) -> None:
    """Each file in each way at least once; the model card decides nothing and is not covered."""
    tiny_checkpoint(tmp_path / "model", 0)
    tiny_checkpoint(tmp_path / "other", 1)
    files = {str(path.relative_to(tmp_path / "model")) for path in (tmp_path / "model").rglob("*") if path.is_file()}
    found = list(outcomes(tmp_path / "model", tmp_path / "other", len(KINDS) * len(files), seed=1))
    assert {(each.file, each.kind) for each in found} == {(file, kind) for file in files for kind in KINDS}
    assert failures(found) == []
    assert {each.file for each in found if each.result != "refused"} == set(NOT_COVERED)
    assert f"{len(found)} mutations: " in table(found)
    assert len(found) >= 40
