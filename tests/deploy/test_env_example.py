"""The example names every setting with its default, and nothing that is none."""

import re
from pathlib import Path

import pytest

from app.settings import Settings

EXAMPLE = Path(__file__).parents[2] / ".env.example"
COMPOSE_ONLY = {"POSTGRES_PASSWORD", "REDIS_PASSWORD", "PUBLISHED_PORT"}
WITHOUT_DEFAULT = {"database_url", "redis_url"}


def example() -> dict[str, str]:
    return dict(re.findall(r"^#?([A-Z_]+)=(.*)$", EXAMPLE.read_text(), re.MULTILINE))


def variable(field: str) -> str:
    return f"TIDEMARK_{field.upper()}"


def test_the_example_names_every_setting_and_nothing_else() -> None:
    assert set(example()) - COMPOSE_ONLY == {variable(field) for field in Settings.model_fields}


def test_the_example_sets_nothing_until_it_is_changed() -> None:
    assert not re.search(r"^[^#\s]", EXAMPLE.read_text(), re.MULTILINE)


def test_every_value_in_the_example_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*map(variable, Settings.model_fields), "DATABASE_URL", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    filled_in = tmp_path / ".env"
    filled_in.write_text("\n".join(f"{name}={value}" for name, value in example().items()))

    loaded = Settings(_env_file=filled_in)
    default = Settings(_env_file=None)

    for field in set(Settings.model_fields) - WITHOUT_DEFAULT:
        assert getattr(loaded, field) == getattr(default, field), field
