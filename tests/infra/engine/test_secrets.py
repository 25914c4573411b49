"""Passphrase secrets: vectors made by the official CLI, round trips, and what damage says."""

import json
import stat
from pathlib import Path

import pytest

from infra.engine import secrets
from infra.engine.errors import ConfigError, StateError
from infra.engine.props import SECRET_SIG, SIG, secret
from infra.engine.secrets import Crypter, find_passphrase

# Written by pulumi 3.272 under the passphrase "x".
SALT = "v1:Pq0IdORjmkI=:v1:clmUaT+IvEfd3qbS:ChJyiLgeJMw3CdbKhDPAvXKp1pL/Nw=="
CIPHERTEXT = "v1:+d8c/ShGHiVYn/Ak:P/rahq8rEzxt/8JWDuYzi12cPVPbl0JwVinwZXQqa1Y="


def test_what_the_official_cli_encrypted_opens() -> None:
    assert Crypter("x", SALT).decrypt(CIPHERTEXT) == '{"x":[1,null,2]}'


def test_a_wrong_passphrase_is_said_with_a_remedy() -> None:
    with pytest.raises(StateError, match="passphrase does not fit") as caught:
        Crypter("y", SALT).decrypt(CIPHERTEXT)
    assert "PULUMI_CONFIG_PASSPHRASE" in caught.value.remedy


def test_the_number_of_rounds_is_pulumis() -> None:
    assert secrets.ROUNDS == 1_000_000


def test_a_new_salt_fits_its_passphrase_only(quick_key: None) -> None:
    crypter = Crypter("one")
    sealed = crypter.encrypt("text")
    assert Crypter("one", crypter.salt_text).decrypt(sealed) == "text"
    with pytest.raises(StateError):
        Crypter("two", crypter.salt_text).decrypt(sealed)


def test_a_damaged_text_is_an_error(quick_key: None) -> None:
    crypter = Crypter("one")
    sealed = crypter.encrypt("text")
    for damaged in ("v1:AAAA", sealed[:-8] + "AAAAAAA=", "v2" + sealed[2:], "nonsense"):
        with pytest.raises(StateError, match="cannot be decrypted"):
            crypter.decrypt(damaged)


def test_an_unknown_salt_form_is_an_error() -> None:
    with pytest.raises(StateError, match="not understood"):
        Crypter("one", "v9:abc")


def test_properties_survive_a_round_trip_nested_secrets_included(quick_key: None) -> None:
    crypter = Crypter("one")
    props = {"a": secret({"b": [1, secret("deep")]}), "c": [secret(None), "plain"]}
    sealed = crypter.encrypt_props(props, "urn")
    assert "deep" not in json.dumps(sealed)
    assert crypter.decrypt_props(sealed, "urn") == props


def test_an_export_with_shown_secrets_is_read(quick_key: None) -> None:
    shown = {"a": {SIG: SECRET_SIG, "plaintext": '{"b":1}'}}
    assert Crypter("one").decrypt_props(shown, "urn") == {"a": secret({"b": 1})}


def test_equal_texts_of_two_resources_have_different_ciphertexts(quick_key: None) -> None:
    crypter = Crypter("one")
    assert crypter.encrypt("text", "urn-a") == crypter.encrypt("text", "urn-a")
    assert crypter.encrypt("text", "urn-a") != crypter.encrypt("text", "urn-b")


def test_the_passphrase_comes_from_the_environment_a_file_or_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_passphrase(tmp_path) == ("correct horse", "")
    monkeypatch.delenv("PULUMI_CONFIG_PASSPHRASE")
    (tmp_path / "file").write_text("from file\n")
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE_FILE", str(tmp_path / "file"))
    assert find_passphrase(tmp_path) == ("from file", "")
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE_FILE", str(tmp_path / "absent"))
    with pytest.raises(ConfigError, match="does not exist"):
        find_passphrase(tmp_path)
    monkeypatch.delenv("PULUMI_CONFIG_PASSPHRASE_FILE")
    made, note = find_passphrase(tmp_path / "state")
    path = tmp_path / "state" / "passphrase"
    assert str(path) in note
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert find_passphrase(tmp_path / "state") == (made, "")
    assert len(made) >= 32
