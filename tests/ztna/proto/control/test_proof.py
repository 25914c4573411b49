"""What a proof covers: exactly these bytes, and no two purposes share them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztna.proto.control.proof import ProofError, ProofKind, proof_message
from ztna.proto.errors import IdentityError, LocalProtocolError

NONCE, LEAF, SESSION = b"n" * 32, b"l" * 32, b"s" * 16


def test_the_bytes_of_both_kinds() -> None:
    assert proof_message("control", NONCE, LEAF) == b"ztna-v2 client proof\0\x07control" + NONCE + LEAF + b"\0"
    assert (
        proof_message("session", NONCE, LEAF, SESSION)
        == b"ztna-v2 client proof\0\x07session" + NONCE + LEAF + b"\x10" + SESSION
    )


@pytest.mark.parametrize(
    ("kind", "nonce", "leaf", "session"),
    [
        ("control", b"n" * 31, LEAF, b""),
        ("control", NONCE, b"l" * 20, b""),
        ("control", NONCE, LEAF, SESSION),
        ("session", NONCE, LEAF, b""),
        ("session", NONCE, LEAF, b"s" * 256),
    ],
)
def test_parts_of_the_wrong_form_are_our_own_mistake(
    kind: ProofKind, nonce: bytes, leaf: bytes, session: bytes
) -> None:
    with pytest.raises(LocalProtocolError):
        proof_message(kind, nonce, leaf, session)


secret = st.binary(min_size=32, max_size=32)
claims = st.one_of(
    st.tuples(st.just("control"), secret, secret, st.just(b"")),
    st.tuples(st.just("session"), secret, secret, st.binary(min_size=1, max_size=40)),
)


@given(claims, claims)
def test_different_claims_are_different_bytes(one: tuple[ProofKind, bytes, bytes, bytes], other: object) -> None:
    assert isinstance(other, tuple)
    assert (proof_message(*one) == proof_message(*other)) == (one == other)


def test_a_refused_proof_is_a_refused_identity_with_a_code() -> None:
    assert isinstance(ProofError("no"), IdentityError)
    assert (ProofError("no").code, ProofError("no", code="denied").code) == ("bad-proof", "denied")
