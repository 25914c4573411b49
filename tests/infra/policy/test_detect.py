"""What counts as a secret, and what looks like one and is none."""

import base64
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.policy.detect import secret_in

ED25519_PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFkc9yM2nVtPqZ5bXw1uKJr8hQ0sD3aGfLoE7iT4RxYv admin@example"
CERTIFICATE = (
    "-----BEGIN CERTIFICATE-----\nMIIBszCCAVmgAwIBAgIUQ0ZkZTlOa3JzV2hYb0pQc1R5d0UwCgYIKoZIzj0EAwIw\n"
    "-----END CERTIFICATE-----\n"
)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("", "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA==\n-----END PRIVATE KEY-----"),
        ("", "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk=\n"),
        ("", "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n"),
        ("", "PuTTY-User-Key-File-3: ssh-ed25519"),
        ("", f"token dop_v1_{'0a1b2c3d' * 8}"),
        ("", "AKIAIOSFODNN7EXAMPLE"),
        ("", f"ghp_{'aB3' * 12}"),
        ("", f"pul-{'0a1b2c3d4e' * 4}"),
        ("", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N"),
        ("", "postgres://app:hunter2@db.example:5432/app"),
        ("", "PASSWORD=correct-horse"),
        ("", '{"auth_token": "abcdef123456"}'),
        ("DB_PASSWORD", "correct horse"),
        ("apiKey", "0123456789"),
        ("ZTNA_TOKEN", "plain-words-only"),
        ("", "key: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"),
        ("", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
        ("", f"{CERTIFICATE}-----BEGIN EC PRIVATE KEY-----\nMHc=\n"),
    ],
)
def test_a_secret_is_seen_and_not_repeated(name: str, text: str) -> None:
    kind = secret_in(text, name)
    assert kind is not None
    assert text not in kind


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("", CERTIFICATE),
        ("", ED25519_PUBLIC),
        ("", "registry.lan/ztna/app@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"),
        ("", "/opt/ztna/releases/current/bin/ztna --config /etc/ztna/intermediate/intermediate.json"),
        ("", "ExecStart=/usr/bin/python3 -m waitress --listen=127.0.0.1:8080 httpbin:app"),
        ("", "MemoryDenyWriteExecute=yes RestrictAddressFamilies=AF_INET"),
        ("", "https://docs.example.org/AmazonECS/latest/developerguide/task_execution_IAM_role.html"),
        ("SECRET_ARN", "arn:aws:secretsmanager:us-east-2:123456789012:secret:connector-AbCdEf"),
        ("TOKEN_FILE", "/run/secrets/token"),
        ("PASSWORD", "${PASSWORD}"),
        ("", "100.64.0.100:9999 2001:db8::1"),
        ("", '{"key_path": "/etc/ztna/key.pem", "cert_path": "/etc/ztna/cert.pem"}'),
        ("LOG_LEVEL", "info"),
    ],
)
def test_what_is_public_is_no_secret(name: str, text: str) -> None:
    assert secret_in(text, name) is None


@given(st.binary(min_size=48, max_size=64))
def test_random_bytes_are_taken_for_a_key_in_hexadecimal(raw: bytes) -> None:
    if len(set(raw)) > 24:
        assert secret_in(f"value {raw.hex()} end") is not None


def test_random_keys_are_seen_in_base64_nearly_always() -> None:
    seen = sum(secret_in(base64.b64encode(os.urandom(32)).decode()) is not None for _ in range(200))
    assert seen >= 198
