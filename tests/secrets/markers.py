"""Twelve planted secrets, each with a mark of its own, and the search for them in whatever was written."""

import base64
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path

NAMES = (
    "ca-key",
    "relay-key",
    "connector-key",
    "agent-key",
    "foreign-agent-key",
    "ssh-admin-key",
    "ssh-bootstrap-host-key",
    "ssh-permanent-host-key",
    "cloud-token",
    "registry-password",
    "config-secret",
    "passphrase",
)
PEMS = frozenset(name for name in NAMES if name.endswith("-key"))


def plant() -> dict[str, str]:
    """Return a mark by name: 32 hex digits that occur nowhere else."""
    return {name: secrets.token_hex(16) for name in NAMES}


def secret_of(name: str, mark: str) -> str:
    """Return the secret that carries a mark: a private key in PEM, or the mark with a prefix."""
    kind = "OPENSSH PRIVATE KEY" if name.startswith("ssh") else "EC PRIVATE KEY"
    return f"-----BEGIN {kind}-----\n{mark}\n-----END {kind}-----\n" if name in PEMS else f"planted-{mark}"


def found_in(content: bytes, marks: Mapping[str, str]) -> set[str]:
    """Return the names of the marks in some bytes: as they are, or in base64 at any of its three alignments."""
    return {name for name, mark in marks.items() if any(form in content for form in _forms(mark))}


def _forms(mark: str) -> Iterable[bytes]:
    yield mark.encode()
    yield mark.upper().encode()
    yield mark.encode().hex().encode()
    for shift in range(3):
        whole = base64.b64encode(b"x" * shift + mark.encode())
        yield whole[4 if shift else 0 : -4]


def found_below(directory: Path, marks: Mapping[str, str]) -> dict[str, set[str]]:
    """Return the marks by file, for every file below a directory; links are not followed."""
    found = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file() and not path.is_symlink():
            names = found_in(path.read_bytes(), marks)
            if names:
                found[str(path.relative_to(directory))] = names
    return found
