"""Settings, and where each came from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tabagent.config import ConfigError, Settings, config_file, load, source_of


def write(text: str) -> None:
    config_file().parent.mkdir(parents=True, exist_ok=True)
    config_file().write_text(text)


def test_a_flag_beats_the_environment_beats_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (load().port, source_of("port", {})) == (8080, "default")
    write("port = 9001\nslots = 3\n")
    assert (load().port, source_of("port", {})) == (9001, str(config_file()))
    monkeypatch.setenv("TABAGENT_PORT", "9002")
    assert (load().port, source_of("port", {})) == (9002, "TABAGENT_PORT")
    assert load(port=9003).port == 9003
    assert source_of("port", {"port": 9003}) == "flag --port"
    assert load(port=None).slots == 3


def test_the_file_may_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('allowed_hosts = ["a", "b"]')
    monkeypatch.setenv("TABAGENT_CONFIG", str(tmp_path / "mine.toml"))
    assert load().allowed_hosts == ["a", "b"]


def test_lists_in_the_environment_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TABAGENT_ALLOWED_HOSTS", "a.example, b.example")
    assert load().allowed_hosts == ["a.example", "b.example"]


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("TABAGENT_PORT", "99999", "port (from TABAGENT_PORT)"),
        ("TABAGENT_PORT", "many", "port (from TABAGENT_PORT)"),
        ("TABAGENT_AUTH", "never", "auth (from TABAGENT_AUTH)"),
        ("TABAGENT_TOKEN", "short", "token (from TABAGENT_TOKEN)"),
        (
            "TABAGENT_HUB_ENDPOINT",
            "https://me:secret@hub.example",
            "hub_endpoint (from TABAGENT_HUB_ENDPOINT): must be an http or https address",
        ),
        ("TABAGENT_HUB_ENDPOINT", "ftp://hub.example", "must be an http or https address"),
        ("TABAGENT_PROT", "9000", "TABAGENT_PROT is not a setting"),
    ],
)
def test_a_bad_value_is_named_with_its_source(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        load()
    assert says in str(caught.value)


def test_a_named_file_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TABAGENT_CONFIG", "/nowhere/config.toml")
    with pytest.raises(ConfigError, match="TABAGENT_CONFIG names no file"):
        load()


@pytest.mark.parametrize("text", ["port = ", "prot = 1"])
def test_a_bad_file_is_refused(text: str) -> None:
    write(text)
    with pytest.raises(ConfigError):
        load()


def test_settings_are_frozen_and_hide_the_token() -> None:
    settings = load(token="a secret of some length")
    assert "a secret" not in repr(settings)
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1  # type: ignore[misc]  # that is the test


def test_every_setting_is_described() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_the_token_may_lie_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("a-secret-of-some-length\n")
    monkeypatch.setenv("TABAGENT_TOKEN_FILE", str(secret))
    settings = load()
    assert settings.token == "a-secret-of-some-length"
    assert "a-secret" not in repr(settings)
    monkeypatch.delenv("TABAGENT_TOKEN_FILE")
    write(f'token_file = "{secret}"\n')
    assert load().token == "a-secret-of-some-length"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "is no file"),
        (b"short", "has to hold one word of 16 letters or more"),
        (b"two words of some length\n", "has to hold one word"),
        (b"x" * 5000, "has to hold one word"),
        (b"\xff" * 20, "is no text"),
    ],
)
def test_a_file_without_a_token_is_refused_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None, says: str
) -> None:
    secret = tmp_path / "token"
    if content is not None:
        secret.write_bytes(content)
    monkeypatch.setenv("TABAGENT_TOKEN_FILE", str(secret))
    with pytest.raises(ConfigError) as caught:
        load()
    assert str(caught.value).startswith("token_file (from TABAGENT_TOKEN_FILE): ")
    assert says in str(caught.value)
    assert content is None or content.decode(errors="replace") not in str(caught.value)


def test_a_token_and_a_file_with_one_are_refused_together(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Else one of them is not in force, and nobody says which."""
    secret = tmp_path / "token"
    secret.write_text("a-secret-of-some-length")
    monkeypatch.setenv("TABAGENT_TOKEN_FILE", str(secret))
    monkeypatch.setenv("TABAGENT_TOKEN", "another-secret-of-some-length")
    with pytest.raises(ConfigError, match="there is a token already") as caught:
        load()
    assert "secret" not in str(caught.value)
