"""`ztna doctor` against a relay on loopback: healthy, refusing, silent, denying; as text and as JSON."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.overlay import ECHO, HOST, HTTP, LoopUdp, Overlay, default_policy
from ztna.config import AgentConfig, ConfigError
from ztna.io.doctor import Report, _split, examine, run
from ztna.io.doctor_quic import Handshakes
from ztna.proto.natclass import NatClassifier, NatTest, Outcome

SECOND = {"alternate_port": 0, "alternate_addr": "127.0.0.2"}


async def relay_only(tmp_path: Path, **options: object) -> Overlay:
    overlay = Overlay(tmp_path, intermediate=SECOND, **options)  # type: ignore[arg-type]
    await overlay.start_relay()
    return overlay


async def test_healthy_relay(tmp_path: Path) -> None:
    overlay = await relay_only(tmp_path)
    config = AgentConfig.from_json(overlay.agent_value())
    report = await examine((HOST, overlay.relay_port), config)
    found = report.to_json()
    assert found["problems"] == []
    assert found["nat"]["alias"] == "public"
    assert found["nat"]["mapping_certain"]
    assert len(found["port_consistency"]["ports"]) == 4
    assert found["port_consistency"]["consistent"]
    assert found["path_mtu_bytes"] == 1500
    assert found["quic"]["completed"] == 4
    assert len(set(found["quic"]["observed"])) == 1
    assert sorted(found["quic"]["registered"]) == [ECHO, HTTP]
    assert found["quic"]["max_payload_bytes"] == 1308
    assert [entry["key"] for entry in found["certificates"]] == ["ca_cert_pem", "cert_pem"]
    assert json.loads(json.dumps(found)) == found
    text = report.to_text()
    assert "There is no NAT in between" in text
    assert "Handshakes: 4 of 4" in text
    await overlay.crash_relay()


async def test_denied_service_is_a_problem(tmp_path: Path) -> None:
    policy = default_policy()
    policy["agents"]["agent"]["services"] = [HTTP]
    overlay = await relay_only(tmp_path, policy=policy)
    report = await examine((HOST, overlay.relay_port), AgentConfig.from_json(overlay.agent_value()))
    assert any(f"denies {ECHO}" in problem for problem in report.problems)
    await overlay.crash_relay()


async def test_untrusted_relay_is_a_problem(tmp_path: Path) -> None:
    overlay = await relay_only(tmp_path)
    config = AgentConfig.from_json(overlay.agent_value())
    config = replace(config, relay=replace(config.relay, server_name="somebody-else"))
    report = await examine((HOST, overlay.relay_port), config)
    assert report.reachable
    assert any(problem.startswith("handshake with the relay failed") for problem in report.problems)
    await overlay.crash_relay()


async def test_port_where_nothing_listens(tmp_path: Path) -> None:
    closed = LoopUdp(lambda data, source: None)
    at = closed.sock.getsockname()
    closed.close()
    report = await examine(at)
    assert report.refused
    assert "nothing listens" in report.problems[0]
    assert not report.to_json()["udp_blocked"]


async def test_silence_is_named_as_blocked_udp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ztna.io.doctor.STUN_TIMEOUT_S", 0.1)
    silent = LoopUdp(lambda data, source: None)
    report = await examine(silent.sock.getsockname())
    assert report.to_json()["udp_blocked"]
    assert "blocks UDP" in report.problems[0]
    assert "Problem: " in report.to_text()
    silent.close()


def test_findings_of_every_kind_are_said() -> None:
    classifier = NatClassifier(local=("10.0.0.1", 5), server=("192.0.2.1", 4433))
    classifier.record(NatTest.BINDING, Outcome(True, ("192.0.2.9", 7), None))
    report = Report(("192.0.2.1", 4433), reachable=True, nat=classifier.classification())
    report.observed = ["192.0.2.9:7", "192.0.2.9:8"]
    report.handshakes = Handshakes(attempted=2, completed=1, handshake_ms=[3.0], observed=["a:1", "a:2"], errors=["x"])
    text = report.to_text()
    assert "You are behind a NAT" in text
    assert "not the same: 192.0.2.9:7, 192.0.2.9:8" in text
    assert len(report.handshakes.problems()) == 2
    assert Handshakes(attempted=1).to_text() == "Handshakes: none of 1 completed"


@pytest.mark.parametrize(
    ("text", "address"),
    [("relay", ("relay", 4433)), ("relay:99", ("relay", 99)), ("[::1]:5", ("::1", 5))],
)
def test_server_is_read(text: str, address: tuple[str, int]) -> None:
    assert _split(text) == address


@pytest.mark.parametrize("server", ["relay:", ":5", "relay:0", "relay:x"])
def test_malformed_server_names_the_option(server: str) -> None:
    with pytest.raises(ConfigError, match="--server"):
        run(server=server)


def test_unknown_host_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="does not resolve"):
        run(server="no-such-relay.invalid")
