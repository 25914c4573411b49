"""Fixtures of the engine's tests."""

from pathlib import Path

import pytest

from infra.engine import secrets
from tests.infra.engine.bench import Bench


@pytest.fixture(autouse=True)
def _quiet_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A known passphrase, and nothing of the caller's Pulumi settings."""
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE", "correct horse")
    for name in ("PULUMI_CONFIG_PASSPHRASE_FILE", "PULUMI_DEBUG_PROVIDERS", "PULUMI_BACKEND_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def quick_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Derives keys in a microsecond; the rounds themselves are tested in test_secrets.py."""
    monkeypatch.setattr(secrets, "ROUNDS", 10)


@pytest.fixture
def bench(tmp_path: Path, quick_key: None) -> Bench:
    """An in-process engine over an empty directory."""
    return Bench(tmp_path / "project")
