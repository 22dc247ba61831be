"""What a run says at its start: what is trained, and which settings of the user do nothing."""

import logging
from typing import Any

import pytest
import yaml

from ragcun.cli.parser import parse_config
from ragcun.config import TrainConfig
from ragcun.training.setup import build_encoder, build_objective
from ragcun.training.summary import announce, in_words, rules_of, trained_parts, without_effect

JEPA = {"system": "jepa", "lambda_predictive": 1.0}
MLP = {"head": "mlp", "normalize_output": False}


@pytest.fixture(scope="module")
def idle(tiny_bert: str) -> Any:
    """Return the settings of a run that have no effect, all given as flags or as values of a file."""

    def find(settings: dict[str, Any]) -> set[str]:
        config = TrainConfig("t", base_model=tiny_bert, device="cpu", **settings)
        return set(without_effect(config, build_encoder(config), epochs=3, steps=30))

    return find


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({}, ""),
        ({"margin": 0.1}, "margin"),
        ({"margin": 0.1, "contrastive": "margin"}, ""),
        ({"temperature": 0.05, "symmetric": True, "contrastive": "margin"}, "temperature symmetric"),
        ({"lambda_contrastive": 0, "lambda_isotropy": 1, "margin": 2.0, "temperature": 1.0}, "margin temperature"),
        ({"isotropy": "sigreg", "num_slices": 8}, "isotropy num_slices"),
        ({"isotropy": "sigreg", "num_slices": 8, "lambda_isotropy": 1}, ""),
        ({"isotropy_form": "absolute", "lambda_isotropy": 1}, "isotropy_form"),
        ({"isotropy_form": "absolute", "lambda_isotropy": 1} | MLP, ""),
        ({"isotropy_form": "absolute", "isotropy": "gor", "lambda_isotropy": 1} | MLP, "isotropy_form"),
        ({"isotropy": "sigreg", "isotropy_transform": "none", "lambda_isotropy": 1}, "isotropy_transform"),
        ({"lambda_reg": 0.1}, "lambda_reg"),
        ({"lambda_reg": 0.1} | MLP, ""),
        ({"dropout": 0.1, "head_depth": 3, "activation": "relu"}, "dropout head_depth activation"),
        ({"dropout": 0.1, "head_depth": 3, "use_predictor": True, "lambda_predictive": 1}, ""),
        ({"use_predictor": True, "predictor_learning_rate": 1.0}, "use_predictor predictor_learning_rate"),
        ({"predictor": "mlp", "stopgrad": False, "ema_decay": 0.9}, "predictor stopgrad ema_decay"),
        ({"ema_decay": 0.9} | JEPA, ""),
        ({"stopgrad": False} | JEPA, "stopgrad"),
        ({"system": "jepa", "ema_decay": 0.9}, "ema_decay"),
        ({"base_learning_rate": 1.0}, "base_learning_rate"),
        ({"base_learning_rate": 1.0, "freeze_base": False}, ""),
        ({"freeze_base": True, "freeze_early_layers": 1}, "freeze_early_layers"),
        ({"freeze_early_layers": 1}, ""),
        ({"lora_rank": 2, "lora_alpha": 3, "base_learning_rate": 1.0}, ""),
        ({"lora_alpha": 3, "lora_layers": 1}, "lora_alpha lora_layers"),
        ({"learning_rate": 1.0, "projection_learning_rate": 1.0}, "learning_rate"),
        ({"learning_rate": 1.0, "projection_learning_rate": 1.0, "freeze_base": False}, ""),
        ({"gradient_checkpointing": True, "compile": True}, "gradient_checkpointing compile"),
        ({"warmup_steps": 30}, ""),
        ({"warmup_steps": 31}, "warmup_steps"),
        ({"save_interval": 3, "grad_cache_size": 127}, ""),
        ({"grad_cache_size": 128}, "grad_cache_size"),
        ({"save_interval": 4, "steps": 7, "epochs": 3}, "save_interval steps"),
        ({"mined_negatives": 0, "mined_last": 7}, "mined_last"),
        ({"mine_every": 2}, ""),
        ({"mine_every": 3}, "mine_every"),
        ({"pair_method": "half", "dev_split": "test", "max_skipped": 3}, "pair_method dev_split max_skipped"),
        ({"on_collapse": "stop", "collapse_checks": 0}, "on_collapse"),
        ({"queries": "q", "head_init": "identity"}, "queries"),
        ({"queries": "q", "cache_dir": "c", "freeze_early_layers": 2}, "queries cache_dir"),
        ({"cache_dir": "c", "freeze_early_layers": 2, "contrastive": "kl", "teacher": "t"}, ""),
    ],
    ids=str,
)
def test_a_setting_without_effect_is_named(idle, settings, named):
    assert idle(settings) == set(named.split())


def test_every_rule_is_about_settings(tiny_bert):
    config = TrainConfig("t", base_model=tiny_bert)
    rules = rules_of(config, build_encoder(config), 3, 30)
    assert {name for names, _, _ in rules for name in names.split()} <= TrainConfig.__dataclass_fields__.keys()


def test_only_what_the_user_gave_is_named(tiny_bert, tmp_path):
    """A flag that repeats a default counts; a saved configuration, which holds every setting, does not."""
    given = ["--train_data", "t", "--base_model", tiny_bert, "--margin", "1.0"]
    config = parse_config(TrainConfig, "", given)
    encoder = build_encoder(config)
    assert set(without_effect(config, encoder, 3, 30)) == {"margin"}
    saved = tmp_path / "config.yaml"
    saved.write_text(yaml.safe_dump(config.to_dict()))
    again = parse_config(TrainConfig, "", ["--config", str(saved)])
    assert again == config
    assert without_effect(again, encoder, 3, 30) == {}


def test_what_a_checkpoint_decides_is_named(tiny_bert, tmp_path):
    config = TrainConfig("t", base_model=tiny_bert, device="cpu", dropout=0.1, **MLP)
    build_encoder(config).save_pretrained(tmp_path / "c")
    for dropout, named in ((0.1, {"normalize_output"}), (0.3, {"dropout", "normalize_output"})):
        later = TrainConfig("t", load_checkpoint=str(tmp_path / "c"), dropout=dropout, normalize_output=True)
        assert set(without_effect(later, build_encoder(later), 3, 30)) == named


def test_the_line_says_what_is_trained(tiny_bert, caplog):
    settings = {"output_dim": 8, "contrastive": "margin", "lambda_isotropy": 1.5, "lambda_reg": 0.1, "margin": 0.5}
    config = TrainConfig("t", base_model=tiny_bert, system="isotropic_gaussian", temperature=0.2, **MLP, **settings)
    encoder = build_encoder(config)
    parameters = 16 * 32 + 32 + 32 * 8 + 8
    assert trained_parts(config, encoder)["parameters"] == parameters
    with caplog.at_level(logging.INFO):
        announce(config, encoder, 3, 30)
    said, *named = [record.message for record in caplog.records if record.name.endswith("summary")]
    assert said == f"training {in_words(trained_parts(config, encoder))}"
    facts = ("isotropic_gaussian", "frozen", "mlp head 16 → 8", "1·margin", "1.5·covariance", "0.1·variance", "808")
    assert [fact for fact in facts if fact not in said] == []
    assert [line.split(":")[0] for line in named] == ["--temperature"]


@pytest.mark.parametrize(
    ("settings", "transform"),
    [
        ({"isotropy": "sigreg"}, "sqrt_dim"),
        ({"isotropy": "vicreg"}, "sqrt_dim"),
        ({"isotropy": "covariance"}, None),
        ({"isotropy": "sigreg", "isotropy_transform": "none"}, "none"),
        ({"isotropy": "sigreg", "normalize_output": False}, None),
    ],
    ids=str,
)
def test_rows_of_length_1_are_scaled_for_losses_that_want_length(tiny_bert, settings, transform):
    config = TrainConfig("t", base_model=tiny_bert, lambda_isotropy=1.0, **settings)
    assert build_objective(config, build_encoder(config)).config.isotropy_transform == transform
