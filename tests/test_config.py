"""Folders and truth values of the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from iepile_cli import config
from iepile_cli.errors import DataError, UsageError


@pytest.mark.parametrize(
    ("variable", "function"),
    [
        ("IEPILE_CONFIG", config.config_file),
        ("IEPILE_MODELS", config.models_folder),
        ("IEPILE_CACHE", config.cache_folder),
        ("HF_HUB_CACHE", config.hub_cache_folder),
    ],
)
def test_a_variable_names_a_place_with_a_tilde(
    variable: str, function: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "~/there")
    assert function() == Path.home() / "there"  # type: ignore[operator]


@pytest.mark.parametrize("value", ["false", "no", "0", "Off", False])
def test_a_string_that_says_false_is_false(value: object) -> None:
    assert config.as_bool(value, "quiet") is False


def test_a_value_that_is_no_truth_value_is_refused() -> None:
    with pytest.raises(UsageError, match="quiet is 'perhaps'"):
        config.as_bool("perhaps", "quiet")


@pytest.mark.parametrize("content", ["a = ", "\ufeffa = [", "a = " + "[" * 100_000])
def test_a_file_that_is_not_toml_is_named(content: str, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(content, "utf-8")
    with pytest.raises(DataError, match=r"config\.toml: not TOML"):
        config.read_toml(path)
