"""StackOutputs: exports and back, what is secret, numbers of other engines, and errors that say where."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.outputs import (
    EXPORT_KEYS,
    SECRET_KEYS,
    AgentOutput,
    ConnectorOutput,
    ExpectedPath,
    NatOutput,
    OutputsError,
    PathPrediction,
    Place,
    RelayEndpoint,
    ServiceOutput,
    ServicePort,
    SshAccess,
    StackOutputs,
    from_exports,
    to_exports,
)

words = st.text(min_size=1, max_size=12)
port_numbers = st.integers(min_value=0, max_value=65_535)
argv = st.lists(words, max_size=3).map(tuple)
services = st.builds(
    ServiceOutput,
    id=words,
    virtual_ip=words,
    ports=st.lists(
        st.builds(ServicePort, protocol=st.sampled_from(["udp", "tcp", "icmp"]), port=port_numbers), max_size=3
    ).map(tuple),
    connector=words,
    backend=words,
    port_backends=st.dictionaries(words, words, max_size=2),
    untunnelled=argv,
)
places = st.builds(
    Place,
    kind=st.sampled_from(["intermediate", "connector", "agent", "backend", "nat"]),
    address=words,
    exec=argv,
    controls=st.dictionaries(words, argv, max_size=2),
    logs=st.dictionaries(words, words, max_size=2),
    status_url=st.none() | words,
    nat=st.none() | st.builds(NatOutput, name=words, mapping=words, filtering=words, public_address=words),
)
agents = st.lists(
    st.builds(
        AgentOutput,
        name=words,
        virtual_ip=words,
        services=argv,
        mode=st.sampled_from(["tun", "user"]),
        forwards=st.dictionaries(words, words, max_size=2),
        profile=words,
    ),
    max_size=3,
    unique_by=lambda agent: agent.name,
).map(tuple)
stacks = st.builds(
    StackOutputs,
    stack=words,
    run=words,
    rung=words,
    relays=st.lists(
        st.builds(
            RelayEndpoint,
            name=words,
            host=words,
            port=port_numbers,
            server_name=words,
            alternate_port=st.none() | port_numbers,
        ),
        max_size=2,
    ).map(tuple),
    connectors=st.lists(st.builds(ConnectorOutput, name=words, services=argv), max_size=2).map(tuple),
    services=st.lists(services, max_size=2).map(tuple),
    agents=agents,
    places=st.dictionaries(words, places, max_size=2),
    ca_pem=words,
    probes=st.dictionaries(words, words, max_size=2),
    expected_paths=st.just(()) | st.just((ExpectedPath(agent="a", connector="c", path="relayed", reason="r"),)),
    limits=argv,
    topology=st.dictionaries(words, st.integers() | st.floats(0.001, 0.999) | words, max_size=3),
    environment=st.dictionaries(words, words, max_size=2),
    expected_path=st.lists(
        st.builds(
            PathPrediction,
            service=words,
            connector=words,
            peer_nat=words,
            reason=words,
            path=st.sampled_from(["direct", "relayed", "none"]),
        ),
        max_size=2,
    ).map(tuple),
    ssh=st.lists(st.builds(SshAccess, host=words, port=port_numbers, user=words, host_key=words), max_size=2).map(
        tuple
    ),
    agent_files=st.dictionaries(words, st.dictionaries(words, words, max_size=2), max_size=2),
    ssh_private_keys=st.dictionaries(words, words, max_size=2),
)


def small(**changes: Any) -> StackOutputs:
    """Return outputs with one agent and one place."""
    values: dict[str, Any] = {
        "stack": "lab",
        "run": "lab",
        "rung": "root",
        "relays": (RelayEndpoint(name="relay", host="192.0.2.1", port=4433, server_name="ztna-server"),),
        "connectors": (),
        "services": (),
        "agents": (AgentOutput(name="a", virtual_ip="100.64.1.1", services=(), mode="tun", profile="KEY"),),
        "places": {"agent": Place(kind="agent", address="192.0.2.2")},
        "ca_pem": "CA",
        "probes": {"foreign": "KEY"},
        "agent_files": {"a": {"agent.json": "KEY"}},
        "ssh_private_keys": {"192.0.2.1": "KEY"},
    }
    return StackOutputs(**(values | changes))


@given(outputs=stacks)
def test_reading_exports_gives_back_what_was_written(outputs: StackOutputs) -> None:
    exports = to_exports(outputs)
    assert from_exports(exports) == outputs
    assert from_exports(json.loads(json.dumps(exports))) == outputs


def floats(value: Any) -> Any:
    """Return a JSON value as an engine that knows only doubles would hand it back."""
    match value:
        case bool():
            return value
        case int():
            return float(value)
        case dict():
            return {key: floats(item) for key, item in value.items()}
        case list() | tuple():
            return [floats(item) for item in value]
        case _:
            return value


def test_numbers_that_came_back_as_floats_are_integers_again() -> None:
    outputs = small(topology={"mtu": 1500, "loss": 0.03, "impaired": True})
    again = from_exports(floats(to_exports(outputs)))
    assert again == outputs
    assert isinstance(again.relays[0].port, int)
    assert isinstance(again.topology["mtu"], int)
    assert again.topology["impaired"] is True


def test_private_keys_stand_under_the_secret_keys_alone() -> None:
    exports = to_exports(small())
    assert tuple(exports) == EXPORT_KEYS
    public = {key: value for key, value in exports.items() if key not in SECRET_KEYS}
    assert "KEY" not in json.dumps(public)
    assert exports["profiles"] == {"a": "KEY"}
    assert exports["probes"] == {"foreign": "KEY"}
    assert exports["agent_files"] == {"a": {"agent.json": "KEY"}}
    assert exports["ssh_private_keys"] == {"192.0.2.1": "KEY"}
    assert set(SECRET_KEYS) == {"profiles", "probes", "agent_files", "ssh_private_keys"}


def test_hidden_secrets_are_read_as_none() -> None:
    outputs = from_exports(to_exports(small()) | dict.fromkeys(SECRET_KEYS, "[secret]"))
    assert outputs.agents[0].profile == ""
    assert (outputs.probes, outputs.agent_files, outputs.ssh_private_keys) == ({}, {}, {})


def test_outputs_of_a_stack_that_knows_nothing_of_ssh_and_files_are_read() -> None:
    exports = to_exports(small())
    for key in ("ssh", "expected_path", "agent_files", "ssh_private_keys"):
        del exports[key]
    outputs = from_exports(exports)
    assert (outputs.ssh, outputs.expected_path, outputs.agent_files, outputs.ssh_private_keys) == ((), (), {}, {})


def test_a_wrong_type_is_named_by_its_place() -> None:
    exports = to_exports(small())
    exports["relays"][0]["port"] = "4433"
    with pytest.raises(OutputsError, match=r"\$\.relays\[0\]\.port") as failure:
        from_exports(exports)
    assert "ztna up" in str(failure.value)


def test_a_missing_key_is_named() -> None:
    exports = to_exports(small())
    del exports["ca_pem"]
    with pytest.raises(OutputsError, match="ca_pem"):
        from_exports(exports)


def test_no_outputs_and_another_schema_are_different_errors() -> None:
    with pytest.raises(OutputsError, match="no outputs yet"):
        from_exports({})
    with pytest.raises(OutputsError, match="schema_version is 99"):
        from_exports(to_exports(small()) | {"schema_version": 99})


def test_what_is_asked_for_by_name_is_found_or_the_names_are_listed() -> None:
    outputs = small()
    assert outputs.agent("a").virtual_ip == "100.64.1.1"
    assert outputs.place("agent").address == "192.0.2.2"
    with pytest.raises(OutputsError, match="no agent 'b'; it has: a"):
        outputs.agent("b")
    with pytest.raises(OutputsError, match="no service 'x'; it has: none"):
        outputs.service("x")
    with pytest.raises(OutputsError, match="no place 'relay'; its places: agent"):
        outputs.place("relay")
