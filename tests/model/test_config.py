"""Configuration: saved = loaded, typing errors are heard."""

from __future__ import annotations

import json

import pytest

from minicpm_o.errors import CheckpointError
from minicpm_o.model.config import NanoConfig, config_from_dict, tiny


@pytest.mark.parametrize("config", [NanoConfig(), tiny()], ids=["nano", "tiny"])
def test_saved_is_loaded(config: NanoConfig) -> None:
    assert NanoConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_unknown_keys_are_refused() -> None:
    values = NanoConfig().to_dict()
    values["language"]["num_layers"] = 3
    with pytest.raises(CheckpointError, match=r"LanguageConfig does not know \['num_layers'\]"):
        NanoConfig.from_dict(values)


def test_a_part_that_is_no_table_is_refused() -> None:
    with pytest.raises(CheckpointError, match="'language', expected a table"):
        config_from_dict({"version": "4.5", "language": 3})
