"""Telling a secret from other text: private keys, tokens by their issuer's form, passwords by name, high entropy. Pure.

What is public by nature is taken out first: certificates, public keys, digests. A hit says which kind of secret it is
and never repeats it.
"""

import math
import re
from collections import Counter
from typing import Final

PRIVATE_KEY: Final = "a private key"
_PRIVATE_KEY = re.compile(r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----|PuTTY-User-Key-File-\d")

# Forms that the issuers publish, so that scanners can find leaked ones.
_TOKENS: Final = (
    ("a DigitalOcean token", re.compile(r"\bdo[opr]_v1_[0-9a-f]{64}\b")),
    ("an AWS access key id", re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b")),
    ("a GitHub token", re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{22,})\b")),
    ("a Pulumi access token", re.compile(r"\bpul-[0-9a-f]{40}\b")),
    ("a Slack token", re.compile(r"\bxox[abprs]-[A-Za-z0-9-]{10,}")),
    ("a JSON web token", re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}")),
    ("a password in an address", re.compile(r"\b[a-z][a-z0-9+.-]*://[^/\s:@]+:[^/\s:@{}$<]{3,}@")),
)
_ASSIGNED = re.compile(
    r"""(?ix) (?<![a-z0-9]) [a-z0-9_.-]*
    (?: password | passwd | passphrase | secret | (?: api|private|access )[_-]?key
    | (?: auth|access|join|bearer )[_-]?token | [_-]token )
    ["']? \s* [:=] \s* ["']? (?P<value> [^\s"',}]{6,} )"""
)
_SECRET_NAME = re.compile(
    r"(?i)(password|passwd|passphrase|secret|token|api_?key|private_?key|access_?key|credential)(?!.*(_?(arn|name|file|path|id|ref)$))"
)
_PLACEHOLDER = re.compile(r"(?i)^(\$\{?|<|\{\{|arn:|/|true$|false$|null$|none$|yes$|no$|file:|\*+$|x+$|changeme$)")

_PUBLIC: Final = (
    re.compile(r"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----.*?-----END [A-Z0-9 ]*CERTIFICATE-----", re.S),
    re.compile(r"-----BEGIN (?:[A-Z0-9]+ )*PUBLIC KEY-----.*?-----END (?:[A-Z0-9]+ )*PUBLIC KEY-----", re.S),
    re.compile(r"\b(?:ssh-(?:rsa|ed25519)|ecdsa-sha2-[a-z0-9-]+|sk-[a-z0-9@.-]+) +[A-Za-z0-9+/=]+"),
    re.compile(r"\b(?:sha256|sha384|sha512)[:-][A-Za-z0-9+/=]+"),
    re.compile(r"\barn:[a-z-]+:[A-Za-z0-9:/_.*-]+"),
)
_RUN = re.compile(r"[A-Za-z0-9+/_=-]{24,}")
MIN_ENTROPY_BITS: Final = 4.2
"""Bits per character above which a run with digits and both cases is no word, name or path."""
MIN_HEX_DIGITS: Final = 32


def secret_in(text: str, name: str = "") -> str | None:
    """Return which kind of secret a text holds, None when it holds none.

    Args:
        text: any text; certificates, public keys and digests in it are no secrets.
        name: what the text is called where it stands, such as the name of an environment variable.
    """
    if _PRIVATE_KEY.search(text):
        return PRIVATE_KEY
    found = next((kind for kind, pattern in _TOKENS if pattern.search(text)), None)
    if found is not None:
        return found
    rest = _without_public(text)
    if _SECRET_NAME.search(name) and len(rest.strip()) >= 6 and not _PLACEHOLDER.match(rest.strip()):
        return f"a value called {name}"
    for match in _ASSIGNED.finditer(rest):
        if not _PLACEHOLDER.match(match["value"]):
            return "a password or token"
    return "text as random as a key" if any(_is_random(run) for run in _RUN.findall(rest)) else None


def _without_public(text: str) -> str:
    for pattern in _PUBLIC:
        text = pattern.sub(" ", text)
    return text


def _is_random(run: str) -> bool:
    """Tell a key from a word: hexadecimal of 32 digits and more, or enough entropy with digits and both cases."""
    if re.fullmatch(r"[0-9a-f]+|[0-9A-F]+", run):
        return len(run) >= MIN_HEX_DIGITS and not run.isdigit() and _entropy(run) > 3.0
    classes = (any(map(str.isdigit, run)), any(map(str.isupper, run)), any(map(str.islower, run)))
    return all(classes) and _entropy(run) >= MIN_ENTROPY_BITS


def _entropy(run: str) -> float:
    """Shannon entropy in bits per character."""
    total = len(run)
    return -sum(count / total * math.log2(count / total) for count in Counter(run).values())
