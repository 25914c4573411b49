"""`ztna-v2` over real sockets: proof, both protocols through one relay, sessions, reload, drain, revocation."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aioice import stun

from tests.support.certs import issue, issue_member, issue_server
from tests.support.overlay import AGENT_IP, CA, ECHO, ECHO_IP, HOST, HTTP, HTTP_IP, Overlay, eventually
from tests.support.v2_members import BOTH, Member, agent_member, connector_member
from ztna.config import ConfigError, IntermediateConfig
from ztna.io import proof
from ztna.io.material import load_material
from ztna.io.quic_types import ALPN, ALPN_V2, Credentials
from ztna.proto.commands import CloseRelay, OpenRelay
from ztna.proto.control.events import (
    ControlDown,
    ControlUp,
    Draining,
    PeerCandidates,
    RelayIsReady,
    ServiceStateChanged,
    SessionEnded,
    SessionGranted,
    SessionInvited,
)
from ztna.proto.control.messages import Candidate, Connect, encode_frame
from ztna.proto.packet import build_udp

SERVICES = {ECHO: ECHO_IP, HTTP: HTTP_IP}
AGENT = issue_member(CA, "agent", "agent", ECHO, HTTP)
CONNECTOR = issue_member(CA, "connector", "connector", ECHO, HTTP)
NONCE = b"n" * 32
V1, V2 = (ALPN,), (ALPN_V2,)


class Bed:
    """A relay, and members that are closed at the end."""

    def __init__(self, overlay: Overlay) -> None:
        self.overlay = overlay
        self.members: list[Member] = []

    @property
    def relay(self) -> Any:
        return self.overlay.relay

    def agent(self, **options: Any) -> Member:
        member = agent_member(options.pop("leaf", AGENT), self.overlay.relay_port, SERVICES, AGENT_IP, **options)
        self.members.append(member)
        return member

    def connector(self, **options: Any) -> Member:
        member = connector_member(options.pop("leaf", CONNECTOR), self.overlay.relay_port, ECHO, HTTP, **options)
        self.members.append(member)
        return member

    async def pair(self) -> tuple[Member, Member]:
        return await self.agent().start(), await self.connector().start()

    async def session(self, agent: Member, connector: Member) -> SessionGranted:
        agent.uplink.sessions.connect(ECHO, 0.0)
        agent.uplink.say()
        invited = await connector.told(SessionInvited)
        connector.uplink.sessions.accept(invited.session, NONCE, 0.0)
        connector.uplink.say()
        granted = await agent.told(SessionGranted)
        assert isinstance(granted, SessionGranted)
        return granted


@pytest_asyncio.fixture
async def bed(tmp_path: Path) -> AsyncIterator[Bed]:
    made = Bed(Overlay(tmp_path))
    await made.overlay.start_relay()
    yield made
    for member in made.members:
        await member.close()
    await made.overlay.crash_relay()


def to_echo(payload: bytes) -> bytes:
    return build_udp(int(IPv4Address(AGENT_IP)), 5000, int(IPv4Address(ECHO_IP)), 9999, payload)


def from_echo(payload: bytes) -> bytes:
    return build_udp(int(IPv4Address(ECHO_IP)), 9999, int(IPv4Address(AGENT_IP)), 5000, payload)


@pytest.mark.parametrize("agent_alpn", [V1, V2, BOTH], ids=["agent v1", "agent v2", "agent auto"])
@pytest.mark.parametrize("connector_alpn", [V1, V2, BOTH], ids=["connector v1", "connector v2", "connector auto"])
async def test_both_protocols_meet_at_the_relay(
    bed: Bed, agent_alpn: tuple[str, ...], connector_alpn: tuple[str, ...]
) -> None:
    connector = await bed.connector(alpn=connector_alpn).start()
    agent = await bed.agent(alpn=agent_alpn).start()
    assert (agent.protocol, connector.protocol) == (agent_alpn[0], connector_alpn[0])
    agent.send(to_echo(b"ping"))
    assert await connector.packet() == to_echo(b"ping")
    connector.send(from_echo(b"pong"))
    assert await agent.packet() == from_echo(b"pong")
    assert agent.control.observed_address == agent.uplink.endpoint.udp.local_address
    assert bed.relay.status()["services"][ECHO] == {"connector": "connector", "agents": 1}
    if agent.protocol == ALPN_V2:
        state = await agent.told(ServiceStateChanged)
        assert (state.connector, state.protocol) == (
            "spiffe://lab/connector/connector", 2 if connector.protocol == ALPN_V2 else 1
        )  # fmt: skip


async def test_without_a_tls_certificate_the_proof_alone_decides(bed: Bed) -> None:
    bed.relay.endpoint.set_server(replace(bed.relay._material.settings, request_client_certificate=False))
    agent = await bed.agent().start()
    assert agent.protocol == ALPN_V2
    (peer,) = bed.relay.endpoint.peers
    assert (peer.identity, peer.certificates) == (None, [])
    assert (await agent.told(ControlUp)).identity == "spiffe://lab/agent/agent"


async def test_the_proof_is_bound_to_the_leaf_shown_on_this_connection(bed: Bed) -> None:
    first = await bed.agent().start()
    renewed = issue_server(CA)
    bed.relay._material = load_material(bed.relay.config)
    settings = replace(bed.relay._material.settings, credentials=renewed.credentials)
    bed.relay.endpoint.set_server(settings)
    second = await bed.connector().start()
    assert first.uplink.peer is not None
    assert second.uplink.peer is not None
    assert first.uplink.peer.certificates != second.uplink.peer.certificates == [renewed.der]


def foreign_key(credentials: Credentials) -> Credentials:
    return replace(credentials, private_key=issue_member(CA, "agent", "agent", ECHO).key)


def other_ca(_: Credentials) -> Credentials:
    return issue_member(issue("other CA", ca=True), "agent", "agent", ECHO).credentials


def another_member(_: Credentials) -> Credentials:
    return issue_member(CA, "agent", "somebody", ECHO).credentials


@pytest.mark.parametrize(
    ("forge", "reason"),
    [
        (foreign_key, "the signature does not verify"),
        (other_ca, "unknown CA"),
        (another_member, "the TLS certificate names another identity"),
    ],
    ids=["foreign key", "another CA", "another member"],
)
async def test_false_proofs_are_refused_with_a_reason(
    bed: Bed, monkeypatch: pytest.MonkeyPatch, forge: Callable[[Credentials], Credentials], reason: str
) -> None:
    agent = bed.agent()
    forged = proof.signer(forge(AGENT.credentials))
    monkeypatch.setattr("ztna.io.uplink.proof.signer", lambda _credentials: forged)
    agent.uplink.start()
    await eventually(lambda: agent.uplink.counters.lost_closed == 1)
    assert "bad-proof" in agent.uplink.last_problem
    assert reason in agent.uplink.last_problem
    assert (agent.control.is_connected, bed.relay.core.connections) == (False, 0)
    # A refusal is respected: nobody asks whether the relay is back.
    assert agent.uplink.counters.stun_probes == 0


async def test_who_says_something_else_first_is_closed(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = bed.agent()

    def connect_at_once(*_: object) -> None:
        assert agent.uplink.peer is not None
        agent.uplink.peer.send_stream(None, encode_frame(Connect(1, ECHO)))

    monkeypatch.setattr(agent.uplink.sessions, "stream_received", connect_at_once)
    agent.uplink.start()
    await eventually(lambda: "not-proven" in agent.uplink.last_problem)
    assert bed.relay.control.stats.drop_before_proof == 1
    assert bed.relay.core.connections == 0


async def test_who_says_nothing_is_closed_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Bed(Overlay(tmp_path, intermediate={"limits": {"proof_s": 0.2}}))
    await made.overlay.start_relay()
    agent = made.agent()
    monkeypatch.setattr(agent.uplink.sessions, "stream_received", lambda *_: None)
    agent.uplink.start()
    await eventually(lambda: "no Hello in time" in agent.uplink.last_problem)
    await agent.close()
    await made.overlay.crash_relay()


async def test_a_session_is_brokered_and_relay_commands_are_handed_out(bed: Bed) -> None:
    commands: list[Any] = []
    bed.relay.on_relay_command = commands.append
    agent, connector = await bed.pair()
    granted = await bed.session(agent, connector)
    assert granted.relay == (HOST, bed.overlay.relay_port)
    assert (granted.connector, granted.services) == ("spiffe://lab/connector/connector", (ECHO, HTTP))
    (opened,) = commands
    assert isinstance(opened, OpenRelay)
    assert (opened.session, opened.key) == (granted.session, granted.key)
    candidate = Candidate("host", HOST, 5000, 1)
    connector.uplink.sessions.send_candidates(granted.session, [candidate], True, 0.0)
    connector.uplink.say()
    received = await agent.told(PeerCandidates)
    assert received.candidates == (candidate,)
    # Both round-trip times are known by now.
    assert 0.005 <= received.start_in_s < 1.0
    bed.relay.control.relay_ready(granted.session, "userspace", 0.0)
    bed.relay._drain_commands()
    assert await connector.told(RelayIsReady) == RelayIsReady(granted.session, "userspace")
    (row,) = bed.relay.status()["brokered"]
    assert (row["session"], row["relay"]) == (granted.session.hex(), "userspace")
    agent.uplink.sessions.end_session(granted.session, "done", 0.0)
    agent.uplink.say()
    assert await connector.told(SessionEnded) == SessionEnded(granted.session, "done")
    assert commands[-1] == CloseRelay(granted.session, "done")


async def test_stun_of_a_member_proves_its_address(bed: Bed) -> None:
    proven: list[Any] = []
    bed.relay.on_session_proven = lambda *what: proven.append(what)
    agent, connector = await bed.pair()
    granted = await bed.session(agent, connector)
    up = await agent.told(ControlUp)
    assert up.stun[0] == (HOST, bed.overlay.relay_port)
    request = stun.Message(stun.Method.BINDING, stun.Class.REQUEST, (7).to_bytes(6, "big") + secrets.token_bytes(6))
    request.attributes["USERNAME"] = f"{granted.session.hex()}:agent"
    request.add_message_integrity(granted.key)
    from tests.ztna.io.test_stun import ask

    answered = await ask(bytes(request), up.stun[0])
    assert answered is not None
    answer = stun.parse_message(answered[0])
    assert answer.check_message_integrity(granted.key)
    assert proven == [(granted.session, "agent", 7, answer.attributes["XOR-MAPPED-ADDRESS"])]


async def test_revocation_ends_connection_and_session(bed: Bed) -> None:
    agent, connector = await bed.pair()
    granted = await bed.session(agent, connector)
    policy = json.loads((bed.overlay.directory / "policy.json").read_text())
    policy["revoked"] = ["spiffe://lab/agent/agent"]
    (bed.overlay.directory / "policy.json").write_text(json.dumps(policy))
    took = await eventually(lambda: SessionEnded(granted.session, "revoked") in connector.events, 5)
    assert took < 5
    await eventually(lambda: "revoked" in agent.uplink.last_problem)
    await agent.told(ControlDown)
    assert connector.control.ready


async def test_a_planned_stop_is_announced_and_members_return(bed: Bed) -> None:
    agent, connector = await bed.pair()
    granted = await bed.session(agent, connector)
    await bed.relay.stop()
    for member in (agent, connector):
        assert (await member.told(Draining)).deadline_s > 0
        assert not [event for event in member.events if isinstance(event, SessionEnded)]
    for member in (agent, connector):
        await member.told(ControlDown)
    await bed.overlay.start_relay()
    await eventually(lambda: agent.control.ready and connector.control.ready, 20)
    agent.uplink.sessions.connect(ECHO, 0.0, session=granted.session, key=granted.key)
    agent.uplink.say()
    invited = await connector.told(SessionInvited, 2)
    assert (invited.session, invited.key, invited.resume) == (granted.session, granted.key, True)


async def test_a_relay_that_is_killed_is_found_again(bed: Bed) -> None:
    agent, connector = await bed.pair()
    agent.send(to_echo(b"x"))
    await connector.packet()
    await bed.overlay.crash_relay()
    await agent.told(ControlDown)
    await bed.overlay.start_relay()
    await eventually(lambda: agent.control.ready and connector.control.ready, 25)
    assert (agent.protocol, agent.uplink.counters.lost_silent) == (ALPN_V2, 1)


async def test_a_relay_of_v1_is_used_as_ever(tmp_path: Path) -> None:
    made = Bed(Overlay(tmp_path, intermediate={"protocol": "v1"}))
    await made.overlay.start_relay()
    agent = await made.agent().start()
    assert (agent.protocol, await agent.told(ControlUp)) == (ALPN, ControlUp(1))
    await made.overlay.crash_relay()
    agent.uplink.send(b"")
    await agent.told(ControlDown)
    await agent.close()


async def test_a_relay_of_v2_alone_refuses_v1(tmp_path: Path) -> None:
    made = Bed(Overlay(tmp_path, intermediate={"protocol": "v2"}))
    await made.overlay.start_relay()
    old = made.agent(alpn=V1)
    old.uplink.start()
    await eventually(lambda: old.uplink.counters.lost_closed == 1)
    assert "code 0x178" in old.uplink.last_problem
    await old.close()
    await (await made.agent().start()).close()
    await made.overlay.crash_relay()


async def test_the_process_that_started_last_serves(bed: Bed) -> None:
    older = await bed.connector().start()
    await asyncio.sleep(0.002)
    newer = await bed.connector().start()
    agent = await bed.agent().start()
    agent.send(to_echo(b"x"))
    assert await newer.packet() == to_echo(b"x")
    await newer.close()
    # The standby follows at once.
    await eventually(lambda: bed.relay.status()["services"][ECHO]["connector"] == "connector", 10)
    agent.send(to_echo(b"y"))
    assert await older.packet() == to_echo(b"y")


@pytest.mark.parametrize("protocol", ["v1", "v2", "auto"])
def test_without_a_ca_there_is_no_proof_to_judge(protocol: str) -> None:
    leaf = issue_server(CA)
    config = IntermediateConfig.from_json(
        {
            "cert_pem": leaf.cert_pem,
            "key_pem": leaf.key_pem,
            "verify_peer": False,
            "allow_anonymous_v1": True,
            "protocol": protocol,
        }
    )
    if protocol == "v2":
        with pytest.raises(ConfigError, match="protocol: v2 needs ca_cert_path"):
            load_material(config)
    else:
        assert load_material(config).settings.alpn == (ALPN,)
