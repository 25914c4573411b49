"""Who a peer is, read from the names in its certificate.

A leaf certificate of a stack names its holder by one URI, `spiffe://<stack>/<role>/<name>`, and lists what the holder
may be by DNS names of the form `<role>.<service>.ztna`, where the service may be `*`. The chain, dates and revocation
are judged elsewhere; here only names are.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from re import ASCII, compile
from typing import Final

from ztna.proto.errors import IdentityError

__all__ = ["ANY_SERVICE", "ROLES", "Identity", "parse_grant", "parse_identity"]

ROLES: Final = frozenset({"intermediate", "connector", "agent"})
GRANTED_ROLES: Final = frozenset({"connector", "agent"})
ANY_SERVICE: Final = "*"
_SCHEME: Final = "spiffe://"
_SUFFIX: Final = ".ztna"
# SPIFFE ID s2.2: a path segment holds letters, digits, dots, dashes and underscores; "." and ".." are not segments.
_NAME = compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,128}", ASCII)


@dataclass(frozen=True, slots=True)
class Identity:
    """An authenticated peer.

    `grants` holds "role:service" in lower case, `fingerprint` the SHA-256 of the leaf certificate's DER in hex.
    """

    role: str
    stack: str
    name: str
    grants: frozenset[str]
    fingerprint: str

    @property
    def uri(self) -> str:
        """The SPIFFE ID; two certificates with the same one are the same peer."""
        return f"{_SCHEME}{self.stack}/{self.role}/{self.name}"

    def grants_service(self, role: str, service: str) -> bool:
        """Say whether the certificate lets its holder be `role` for `service`.

        DNS names have no case, so neither has this comparison; the policy compares the exact id.
        """
        if role != self.role:
            return False
        return f"{role}:{service.lower()}" in self.grants or f"{role}:{ANY_SERVICE}" in self.grants


def parse_grant(dns_name: str) -> str | None:
    """Return "role:service" for a DNS name `ROLE.SERVICE.ztna`, None for any other name.

    The service is everything between the first dot and the suffix, so it may contain dots.
    """
    name = dns_name.lower()
    if not name.endswith(_SUFFIX):
        return None
    role, dot, service = name.removesuffix(_SUFFIX).partition(".")
    if role not in GRANTED_ROLES or not dot or not service:
        return None
    return f"{role}:{service}"


def parse_identity(uris: Iterable[str], dns_names: Iterable[str], fingerprint: str, stack: str) -> Identity:
    """Return the identity that the names of a verified certificate give it.

    Args:
        uris, dns_names: subject alternative names of the leaf.
        fingerprint: SHA-256 of the leaf's DER, hex.
        stack: the stack we belong to; a certificate of another one is refused.

    Raises:
        IdentityError: no SPIFFE ID, several, one of another stack, or one that is malformed.
    """
    ids = [uri for uri in uris if uri.lower().startswith(_SCHEME)]
    if len(ids) != 1:
        raise IdentityError(f"the certificate has {len(ids)} spiffe:// names instead of one")
    parts = ids[0][len(_SCHEME) :].split("/")
    if len(parts) != 3:
        raise IdentityError(f"{ids[0]!r} is not spiffe://<stack>/<role>/<name>")
    trust_domain, role, name = parts
    if trust_domain.lower() != stack.lower():
        raise IdentityError(f"{ids[0]!r} belongs to another stack than {stack!r}")
    if role not in ROLES:
        raise IdentityError(f"{ids[0]!r} names an unknown role")
    if _NAME.fullmatch(name) is None:
        raise IdentityError(f"{ids[0]!r} has a malformed name")
    grants = frozenset(grant for grant in map(parse_grant, dns_names) if grant is not None)
    return Identity(role, stack, name, grants, fingerprint.lower().replace(":", ""))
