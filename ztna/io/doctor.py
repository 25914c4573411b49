"""`ztna doctor`: what the network between this machine and the relay is like, and what that means, in plain words.

Flow: reach the relay by STUN -> classify the NAT (RFC 5780) -> ask the same socket's address again and again -> measure
the path MTU -> read the UDP buffers the kernel grants; with a config file also the real handshake, several times, the
observed address of each connection (QAD), the registrations of an agent, and the dates of the certificates.

Findings are problems (something will not work; exit code 1) or hints (something could be better; exit code 0).
"""

import json
import socket
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from ztna.config import AgentConfig, ConfigError, ConnectorConfig, load_agent, load_connector
from ztna.config_reader import parse_json, read_text
from ztna.io import runtime
from ztna.io.certs import EXPIRY_WARNING_DAYS, expires_in_days, load_anchors, load_credentials
from ztna.io.doctor_quic import Handshakes, shake_hands
from ztna.io.path_mtu import measure_path_mtu
from ztna.io.resolve import address_family
from ztna.io.stun_client import StunClient
from ztna.io.udp import DEFAULT_BUFFER_BYTES, Address, UdpSocket
from ztna.proto.natclass import NatClassification, NatClassifier, explain

OBSERVATIONS: Final = 4
STUN_TIMEOUT_S: Final = 1.5
MIN_QUIC_MTU: Final = 1228
DEFAULT_PORT: Final = 4433
EXIT_OK: Final = 0
EXIT_PROBLEM: Final = 1


@dataclass(slots=True)
class Report:
    """Everything found; `to_json` is the documented form."""

    server: Address
    reachable: bool = False
    refused: bool = False
    rtt_ms: float | None = None
    nat: NatClassification | None = None
    observed: list[str] = field(default_factory=list)
    path_mtu_bytes: int | None = None
    receive_buffer_bytes: int = 0
    send_buffer_bytes: int = 0
    certificates: list[dict[str, Any]] = field(default_factory=list)
    handshakes: Handshakes | None = None
    problems: list[str] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing stands in the way."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """JSON object with the keys server, ok, reachable, observed_address, nat, port_consistency, and so on."""
        ports = [int(endpoint.rpartition(":")[2]) for endpoint in self.observed]
        return {
            "server": f"{self.server[0]}:{self.server[1]}",
            "ok": self.ok,
            "reachable": self.reachable,
            "udp_blocked": not self.reachable and not self.refused,
            "rtt_ms": self.rtt_ms,
            "observed_address": self.observed[-1] if self.observed else None,
            "nat": None if self.nat is None else _nat_json(self.nat),
            "port_consistency": {"ports": ports, "consistent": len(set(self.observed)) <= 1},
            "path_mtu_bytes": self.path_mtu_bytes,
            "udp_buffers": {
                "wanted_bytes": DEFAULT_BUFFER_BYTES,
                "receive_bytes": self.receive_buffer_bytes,
                "send_bytes": self.send_buffer_bytes,
            },
            "certificates": self.certificates,
            "quic": None if self.handshakes is None else asdict(self.handshakes),
            "problems": self.problems,
            "hints": self.hints,
        }

    def to_text(self) -> str:
        """The report for people."""
        rtt = "" if self.rtt_ms is None else f", round trip {self.rtt_ms:.1f} ms"
        lines = [f"Relay {self.server[0]}:{self.server[1]}: {'answers' if self.reachable else 'no answer'}{rtt}"]
        if self.observed:
            same = "always the same" if len(set(self.observed)) == 1 else f"not the same: {', '.join(self.observed)}"
            lines.append(f"Observed address: {self.observed[-1]} ({len(self.observed)} observations, {same})")
        if self.nat is not None:
            if self.nat.behind_nat:
                kind = f"{self.nat.mapping} mapping, {self.nat.filtering} filtering"
                lines.append(f"NAT: {self.nat.alias} ({kind}; ports {self.nat.port_allocation})")
            elif self.nat.reachable:
                lines.append(f"NAT: none ({self.nat.alias}; {self.nat.filtering} filtering)")
            lines += [f"  {sentence}" for sentence in explain(self.nat)]
        if self.path_mtu_bytes is not None:
            lines.append(f"Path MTU towards the relay: {self.path_mtu_bytes} bytes")
        lines.append(
            f"UDP buffers: receive {_kib(self.receive_buffer_bytes)}, send {_kib(self.send_buffer_bytes)} "
            f"of {_kib(2 * DEFAULT_BUFFER_BYTES)} wanted"
        )
        lines += [f"Certificate {entry['key']}: {entry['days_left']:.0f} days left" for entry in self.certificates]
        if self.handshakes is not None:
            lines.append(self.handshakes.to_text())
        lines += [f"Problem: {text}" for text in self.problems] + [f"Hint: {text}" for text in self.hints]
        return "\n".join(lines if self.problems or self.hints else [*lines, "Nothing wrong found."])


async def examine(server: Address, config: AgentConfig | ConnectorConfig | None = None) -> Report:
    """Examine the network between here and a relay.

    Args:
        server: the relay's IP address and port.
        config: also try the handshake and look at the certificates of this config.
    """
    report = Report(server)
    await _reach(report)
    if report.reachable:
        await _classify(report)
        await _observe(report)
        report.path_mtu_bytes = await measure_path_mtu(server)
    _read_buffers(report)
    if config is not None:
        _read_certificates(report, config)
        report.handshakes = await shake_hands(server, config, OBSERVATIONS)
    _judge(report)
    return report


async def _reach(report: Report) -> None:
    client = StunClient(_any(report.server), connect_to=report.server)
    try:
        started = time.monotonic()
        outcome = await client.binding(report.server, timeout_s=STUN_TIMEOUT_S * 2)
        report.reachable = outcome.answered
        report.refused = client.refused
        if outcome.answered:
            report.rtt_ms = round((time.monotonic() - started) * 1000, 3)
    finally:
        client.close()


async def _classify(report: Report) -> None:
    """Run the tests of RFC 5780 on two sockets, as the classifier asks for them."""
    mapping, filtering = StunClient(_any(report.server)), StunClient(_any(report.server))
    try:
        host = _source_towards(report.server)
        classifier = NatClassifier(local=(host, mapping.local_address[1]), server=report.server)
        while (test := classifier.next_test()) is not None:
            client = filtering if test.on_filtering_socket else mapping
            outcome = await client.binding(
                classifier.target(test), change=test.change_request, timeout_s=STUN_TIMEOUT_S
            )
            classifier.record(test, outcome)
        report.nat = classifier.classification()
    finally:
        mapping.close()
        filtering.close()


async def _observe(report: Report) -> None:
    """Ask one socket's address repeatedly: a NAT that changes it under an unchanged destination breaks every path."""
    client = StunClient(_any(report.server))
    try:
        for _ in range(OBSERVATIONS):
            outcome = await client.binding(report.server, timeout_s=STUN_TIMEOUT_S)
            if outcome.mapped is not None:
                report.observed.append(f"{outcome.mapped[0]}:{outcome.mapped[1]}")
    finally:
        client.close()


def _read_buffers(report: Report) -> None:
    udp = UdpSocket(_any(report.server)[0], 0)
    report.receive_buffer_bytes, report.send_buffer_bytes = udp.receive_buffer_bytes, udp.send_buffer_bytes
    udp.close()


def _read_certificates(report: Report, config: AgentConfig | ConnectorConfig) -> None:
    tls = config.tls
    try:
        anchors = load_anchors(tls.ca) if tls.ca is not None else None
        found = [(tls.ca.key, anchor) for anchor in anchors.certificates] if tls.ca is not None and anchors else []
        if tls.certificate is not None and tls.key is not None:
            found.append((tls.certificate.key, load_credentials(tls.certificate, tls.key, anchors).certificate))
    except ConfigError as exc:
        report.problems.append(str(exc))
        return
    for key, certificate in found:
        days = expires_in_days(certificate)
        report.certificates.append(
            {"key": key, "subject": certificate.subject.rfc4514_string(), "days_left": round(days, 1)}
        )
        if days < EXPIRY_WARNING_DAYS:
            report.hints.append(f"{key} expires in {days:.1f} days; renew it (for a stack: `ztna up`)")


def _judge(report: Report) -> None:
    host, port = report.server
    if report.refused:
        report.problems.append(f"{host} says that nothing listens on UDP {port}: the relay is down or on another port")
    elif not report.reachable and (report.handshakes is None or not report.handshakes.completed):
        report.problems.append(
            f"no UDP answer from {host}:{port}: a firewall on the way blocks UDP, or the relay's host is down"
        )
    elif not report.reachable:
        report.hints.append("the relay answers QUIC but not STUN, so the NAT could not be classified")
    if len(set(report.observed)) > 1:
        report.problems.append("the NAT changes the outside port of one socket although its destination stays the same")
    if report.path_mtu_bytes is not None and report.path_mtu_bytes < MIN_QUIC_MTU:
        report.problems.append(
            f"the path carries packets of {report.path_mtu_bytes} bytes only; QUIC needs {MIN_QUIC_MTU} (RFC 9000 s14)"
        )
    for direction, size, sysctl in (
        ("receive", report.receive_buffer_bytes, "rmem_max"),
        ("send", report.send_buffer_bytes, "wmem_max"),
    ):
        # The kernel reports twice what was asked for (socket(7)).
        if size < 2 * DEFAULT_BUFFER_BYTES:
            report.hints.append(
                f"the UDP {direction} buffer is {_kib(size)}, less than wanted; bursts will be lost: "
                f"sysctl -w net.core.{sysctl}={DEFAULT_BUFFER_BYTES}"
            )
    if report.handshakes is not None:
        report.problems += report.handshakes.problems()


def run(*, config: Path | None = None, server: str | None = None, as_json: bool = False) -> tuple[int, str]:
    """Examine and give the exit code (0 fine, 1 problem) and the text to print.

    Raises:
        ConfigError: the file or the server cannot be used.
    """
    loaded = _load(config) if config is not None else None
    if server is not None:
        host, port = _split(server)
    elif loaded is not None:
        host, port = loaded.relay.host, loaded.relay.port
    else:
        raise ConfigError("doctor: give --config FILE or --server HOST:PORT")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except OSError as exc:
        raise ConfigError(f"the relay's name {host!r} does not resolve: {exc}; check the name or DNS") from exc
    address = next((entry for entry in found if entry[0] == socket.AF_INET), found[0])[4]
    report = runtime.run(examine((str(address[0]), int(address[1])), loaded))
    text = json.dumps(report.to_json(), indent=2) if as_json else report.to_text()
    return (EXIT_OK if report.ok else EXIT_PROBLEM), text


def _load(path: Path) -> AgentConfig | ConnectorConfig:
    """An agent's or a connector's config; the services of a connector have backends."""
    value = parse_json(read_text(path, "--config"), str(path))
    services = value.get("services")
    entries = services if isinstance(services, list) else []
    is_connector = any(isinstance(entry, dict) and ("backend" in entry or "ports" in entry) for entry in entries)
    return load_connector(path) if is_connector else load_agent(path)


def _split(text: str) -> Address:
    host, colon, port = text.rpartition(":")
    if not colon:
        return text, DEFAULT_PORT
    if not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536 and host):
        raise ConfigError(f"--server: {text!r} is not HOST:PORT, like relay.example.net:4433")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _any(server: Address) -> Address:
    return ("::" if ":" in server[0] else "0.0.0.0"), 0


def _source_towards(server: Address) -> str:
    """The address packets to the relay leave with, before any NAT."""
    with socket.socket(address_family(server[0]), socket.SOCK_DGRAM) as probe:
        probe.connect(server)
        return str(probe.getsockname()[0])


def _nat_json(nat: NatClassification) -> dict[str, Any]:
    def text(endpoint: tuple[str, int] | None) -> str | None:
        return None if endpoint is None else f"{endpoint[0]}:{endpoint[1]}"

    return {
        **{key: value for key, value in asdict(nat).items() if key not in ("local", "mapped")},
        "local": text(nat.local),
        "mapped": text(nat.mapped),
        "alias": nat.alias,
        "explanation": explain(nat),
    }


def _kib(size: int) -> str:
    return f"{size // 1024} KiB"
