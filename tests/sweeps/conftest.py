"""Sweeps of the toy collection."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

PARAMETERS = {"lambda_isotropy": {"values": [0.0, 1.0, 10.0]}, "isotropy": {"values": ["covariance", "gor"]}}


@pytest.fixture
def write_sweep(tmp_path, tiny_bert, collection_folder):
    """Write the YAML file of a grid on the toy collection; arguments replace or (None) drop its parts."""

    def write(base=None, **parts):
        ours: dict[str, Any] = {"base_model": tiny_bert, "train_data": str(collection_folder), "device": "cpu"}
        ours |= {"dev_beir": str(collection_folder), "epochs": 1, "batch_size": 8, "projection_learning_rate": 0.01}
        ours = {name: value for name, value in (ours | (base or {})).items() if value is not None}
        sweep = {"study": "toy", "sampler": "grid", "seeds": [1, 2], "base": ours, "parameters": PARAMETERS} | parts
        path = tmp_path / "sweep.yaml"
        path.write_text(
            yaml.safe_dump({name: value for name, value in sweep.items() if value is not None}, sort_keys=False)
        )
        return path

    return write
