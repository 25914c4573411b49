"""Policy: default deny, both must grant, and errors that name the key."""

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztna.proto.errors import PolicyError
from ztna.proto.identity import Identity
from ztna.proto.policy import Policy, is_unicast

DOCUMENT: dict[str, Any] = {
    "services": {"echo-service": {"virtual_ip": "100.64.0.100"}, "http-app": {"virtual_ip": "100.64.0.101"}},
    "agents": {"agent": {"virtual_ip": "100.64.1.1", "services": ["echo-service"]}},
    "connectors": {"connector": {"services": ["echo-service", "http-app"]}, "any": {"services": ["*"]}},
    "revoked": ["AA:" + "bb" * 31, "spiffe://lab/agent/lost"],
}


def identity(role: str, name: str, *grants: str, fingerprint: str = "00") -> Identity:
    return Identity(role, "lab", name, frozenset(grants), fingerprint)


def test_lookups() -> None:
    policy = Policy.from_json(DOCUMENT)
    assert policy.agent_address("agent") == 0x64400101
    assert policy.agent_address("other") is None
    assert policy.service_address("http-app") == 0x64400065
    assert policy.service_address("nope") is None
    assert policy.service_for_address(0x64400064) == "echo-service"
    assert policy.service_for_address(0x64400101) is None


def test_certificate_and_policy_must_both_grant() -> None:
    policy = Policy.from_json(DOCUMENT)
    assert policy.may_reach(identity("agent", "agent", "agent:*"), "echo-service")
    assert not policy.may_reach(identity("agent", "agent", "agent:*"), "http-app")
    assert not policy.may_reach(identity("agent", "agent", "agent:http-app"), "echo-service")
    assert not policy.may_reach(identity("agent", "other", "agent:*"), "echo-service")
    assert not policy.may_reach(identity("connector", "agent", "agent:*"), "echo-service")
    assert policy.may_serve(identity("connector", "connector", "connector:http-app"), "http-app")
    assert policy.may_serve(identity("connector", "any", "connector:*"), "anything")
    assert not policy.may_serve(identity("agent", "connector", "connector:*"), "http-app")
    # The policy's ids are exact, however DNS names compare.
    assert not policy.may_serve(identity("connector", "connector", "connector:*"), "HTTP-app")


def test_nothing_is_granted_by_an_empty_policy() -> None:
    for policy in (Policy.empty(), Policy.from_json({})):
        assert not policy.may_reach(identity("agent", "agent", "agent:*"), "echo-service")
        assert not policy.may_serve(identity("connector", "connector", "connector:*"), "echo-service")


def test_revocation_by_fingerprint_and_by_name() -> None:
    policy = Policy.from_json(DOCUMENT)
    assert policy.revoked(identity("agent", "agent", fingerprint="aa" + "bb" * 31))
    assert policy.revoked(identity("agent", "lost"))
    assert not policy.revoked(identity("agent", "agent"))
    assert not policy.may_reach(identity("agent", "agent", "agent:*", fingerprint="aa" + "bb" * 31), "echo-service")


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ([], "policy: .* is not an object"),
        ({"service": {}}, "policy.service: unknown key; did you mean 'services'"),
        ({"zzz": {}}, "policy.zzz: unknown key; known keys: services"),
        ({"services": []}, "services: .* is not an object"),
        ({"services": {"a": 1}}, r"services.a: 1 is not an object"),
        ({"services": {"a": {}}}, "services.a.virtual_ip: None is not an IPv4 address"),
        ({"services": {"a": {"virtual_ip": "::1"}}}, "services.a.virtual_ip: '::1'"),
        ({"services": {"a": {"virtual_ip": "127.0.0.1"}}}, "no unicast address"),
        ({"services": {"a": {"virtual_ip": "10.0.0.1", "virtual_ipp": 1}}}, "services.a.virtual_ipp: unknown key"),
        ({"services": {"a" * 256: {"virtual_ip": "10.0.0.1"}}}, "at most 255"),
        (
            {"services": {"a": {"virtual_ip": "10.0.0.1"}, "b": {"virtual_ip": "10.0.0.1"}}},
            "services.b.virtual_ip: 10.0.0.1 is taken by services.a",
        ),
        (
            {"services": {"a": {"virtual_ip": "10.0.0.1"}}, "agents": {"x": {"virtual_ip": "10.0.0.1"}}},
            "agents.x.virtual_ip: 10.0.0.1 is taken by services.a",
        ),
        ({"agents": {"x": {"virtual_ip": "10.0.0.2", "services": "a"}}}, "agents.x.services: 'a' is not a list"),
        ({"agents": {"x": {"virtual_ip": "10.0.0.2", "services": [1]}}}, "agents.x.services"),
        (
            {"services": {"echo": {"virtual_ip": "10.0.0.1"}}, "connectors": {"c": {"services": ["ecko"]}}},
            "connectors.c.services: 'ecko' is not a service; did you mean 'echo'",
        ),
        ({"connectors": {"c": {"services": ["echo"]}}}, "add it to services with its virtual_ip"),
        ({"revoked": {}}, "revoked: .* is not a list"),
        ({"revoked": ["abc"]}, r"revoked\[0\]: 'abc'"),
        ({"revoked": [7]}, r"revoked\[0\]: 7"),
    ],
)
def test_errors_name_the_key_the_value_and_the_remedy(document: object, text: str) -> None:
    with pytest.raises(PolicyError, match=text):
        Policy.from_json(document)


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(
            st.sampled_from(["services", "agents", "connectors", "revoked", "virtual_ip", "x"]), children, max_size=4
        )
    ),
    max_leaves=12,
)


@given(json)
def test_any_document_is_a_policy_or_a_policy_error(document: object) -> None:
    with contextlib.suppress(PolicyError):
        Policy.from_json(document)


@pytest.mark.parametrize(
    ("address", "unicast"),
    [
        (0x0A640001, True),
        (0x64400001, True),
        (0x00000001, False),
        (0x7F000001, False),
        (0xA9FEA9FE, False),
        (0xE0000001, False),
        (0xFFFFFFFF, False),
    ],
)
def test_unicast(address: int, unicast: bool) -> None:
    assert is_unicast(address) is unicast
