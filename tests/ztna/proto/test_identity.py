"""Identity from the names of a certificate."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztna.proto.errors import IdentityError
from ztna.proto.identity import Identity, parse_grant, parse_identity


def test_names_and_grants() -> None:
    identity = parse_identity(
        ["https://example.org/", "spiffe://lab/agent/laptop-1"],
        ["agent.echo-service.ztna", "agent.a.b.ztna", "laptop.example.org", "ztna-server"],
        "AB:CD",
        "lab",
    )
    assert identity == Identity("agent", "lab", "laptop-1", frozenset({"agent:echo-service", "agent:a.b"}), "abcd")
    assert identity.uri == "spiffe://lab/agent/laptop-1"


@pytest.mark.parametrize(
    ("dns_name", "grant"),
    [
        ("agent.echo.ztna", "agent:echo"),
        ("CONNECTOR.Echo.ZTNA", "connector:echo"),
        ("agent.*.ztna", "agent:*"),
        ("agent.two.dots.ztna", "agent:two.dots"),
        ("agent..ztna", None),
        ("agent.ztna", None),
        ("intermediate.echo.ztna", None),
        ("admin.echo.ztna", None),
        ("agent.echo.ztna.example", None),
        (".ztna", None),
        ("", None),
    ],
)
def test_grant(dns_name: str, grant: str | None) -> None:
    assert parse_grant(dns_name) == grant


@pytest.mark.parametrize(
    ("uris", "text"),
    [
        ([], "0 spiffe"),
        (["spiffe://lab/agent/a", "spiffe://lab/agent/b"], "2 spiffe"),
        (["https://lab/agent/a"], "0 spiffe"),
        (["spiffe://other/agent/a"], "another stack"),
        (["spiffe://lab/agent"], "is not spiffe"),
        (["spiffe://lab/agent/a/b"], "is not spiffe"),
        (["spiffe://lab/root/a"], "unknown role"),
        (["spiffe://lab/agent/"], "malformed name"),
        (["spiffe://lab/agent/.."], "malformed name"),
        (["spiffe://lab/agent/a b"], "malformed name"),
        (["spiffe://lab/agent/a\n"], "malformed name"),
        (["spiffe://lab/agent/" + "a" * 129], "malformed name"),
    ],
)
def test_refused(uris: list[str], text: str) -> None:
    with pytest.raises(IdentityError, match=text):
        parse_identity(uris, [], "", "lab")


@given(st.lists(st.text(max_size=60), max_size=4), st.lists(st.text(max_size=60), max_size=4))
def test_any_names_give_an_identity_or_an_identity_error(uris: list[str], dns_names: list[str]) -> None:
    try:
        identity = parse_identity(["spiffe://lab/agent/a", *uris], dns_names, "", "lab")
    except IdentityError:
        return
    assert identity.name == "a"


def identity(role: str, *grants: str) -> Identity:
    return Identity(role, "lab", "x", frozenset(grants), "")


def test_a_right_needs_the_role_and_the_grant() -> None:
    assert identity("agent", "agent:echo").grants_service("agent", "echo")
    assert identity("agent", "agent:*").grants_service("agent", "anything")
    assert not identity("agent", "agent:echo").grants_service("agent", "http")
    assert not identity("agent", "connector:echo").grants_service("agent", "echo")
    assert not identity("agent", "agent:*", "connector:*").grants_service("connector", "echo")
    assert not identity("agent").grants_service("agent", "echo")


def test_the_case_of_a_service_id_does_not_matter_to_a_dns_name() -> None:
    assert identity("agent", "agent:echo").grants_service("agent", "Echo")
