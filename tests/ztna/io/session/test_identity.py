"""Who is at the other end of a session: both sides judge for themselves, whatever the intermediate said."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest

from tests.support.certs import CLIENT, SERVER, Issued, issue, issue_member
from ztna.io import proof
from ztna.io.certs import load_anchors
from ztna.io.session.identity import SessionRejected, hello, judge_agent, judge_connector
from ztna.proto.end_to_end import SessionHello

CA, OTHER_CA = issue("stack CA", ca=True), issue("another CA", ca=True)
ANCHORS = load_anchors(CA.pem())
URI = "spiffe://lab/connector/connector"
NONCE, SESSION = b"n" * 32, b"s" * 16
ECHO: Mapping[str, tuple[str, ...]] = {"echo-service": ()}


def connector(ca: Issued = CA, uri: str = URI, services: Sequence[str] = ("echo-service",), **how: Any) -> Issued:
    """A certificate that a connector shows as the server of a session."""
    grants = tuple(f"connector.{service}.ztna" for service in services)
    return issue("connector", ca, uris=(uri,), dns=grants, **({"usage": (CLIENT, SERVER)} | how))


def test_a_connector_serves_what_certificate_and_profile_agree_on() -> None:
    chain = [connector(services=("echo-service", "http-app")).der]
    allowed = {"echo-service": ("connector",), "http-app": (URI,), "other": (), "quake": ("another",)}
    found = judge_connector(chain, ANCHORS, "lab", expected=URI, allowed=allowed)
    assert found == ("echo-service", "http-app")


@pytest.mark.parametrize(
    ("shown", "expected", "allowed", "why"),
    [
        (connector(OTHER_CA), URI, ECHO, "certificate is refused"),
        (connector(usage=(CLIENT,)), URI, ECHO, "certificate is refused"),
        (connector(uri="spiffe://home/connector/connector"), URI, ECHO, "certificate is refused"),
        (connector(uri="spiffe://lab/connector/another"), URI, ECHO, "the peer is spiffe://lab/connector/another"),
        (connector(uri="spiffe://lab/agent/agent"), "spiffe://lab/agent/agent", ECHO, "the peer is"),
        (connector(services=("http-app",)), URI, ECHO, "may serve none of echo-service"),
        (connector(), URI, {"echo-service": ("another",)}, "may serve none of echo-service"),
    ],
    ids=["ca", "usage", "stack", "not-named", "role", "no-grant", "not-in-profile"],
)
def test_another_connector_is_refused_though_the_intermediate_named_it(
    shown: Issued, expected: str, allowed: Mapping[str, tuple[str, ...]], why: str
) -> None:
    with pytest.raises(SessionRejected, match=why):
        judge_connector([shown.der], ANCHORS, "lab", expected=expected, allowed=allowed)


AGENT = issue_member(CA, "agent", "agent", "echo-service")
LEAF = connector().der


def proven(agent: Issued = AGENT, **changes: Any) -> SessionHello:
    """An agent's proof for the session."""
    claim = {"nonce": NONCE, "server_leaf": LEAF, "session": SESSION} | changes
    return hello(agent.credentials, **claim)


def judge(message: SessionHello, expected: str = "spiffe://lab/agent/agent") -> str:
    return judge_agent(message, ANCHORS, "lab", expected=expected, nonce=NONCE, server_leaf=LEAF, session=SESSION).uri


def test_an_agent_proves_itself_for_one_session() -> None:
    assert judge(proven()) == "spiffe://lab/agent/agent"


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (proven(nonce=b"x" * 32), "proof is refused"),
        (proven(session=b"x" * 16), "proof is refused"),
        (proven(server_leaf=connector().der), "proof is refused"),
        (proven(issue_member(OTHER_CA, "agent", "agent", "echo-service")), "proof is refused"),
        (msgspec.structs.replace(proven(), signature=proven(nonce=b"x" * 32).signature), "proof is refused"),
        (msgspec.structs.replace(proven(), chain=[]), "proof is refused"),
        (proven(issue_member(CA, "agent", "phone", "echo-service")), "the peer is spiffe://lab/agent/phone"),
    ],
    ids=["nonce", "session", "passed-on", "ca", "recorded", "no-chain", "not-invited"],
)
def test_another_agent_or_a_proof_made_for_something_else_is_refused(message: SessionHello, why: str) -> None:
    with pytest.raises(SessionRejected, match=why):
        judge(message)


def test_the_control_connections_proof_is_none_of_a_session() -> None:
    signature = proof.sign(AGENT.credentials, "control", nonce=NONCE, server_leaf_sha256=proof.leaf_sha256(LEAF))
    with pytest.raises(SessionRejected, match="proof is refused"):
        judge(msgspec.structs.replace(proven(), signature=signature))
