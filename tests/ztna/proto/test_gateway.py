"""The packet gateway as a whole: what packets and sockets say, and the exact commands that follow."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ztna.proto.gateway_bed import (
    AGENT,
    BACKEND,
    ECHO,
    HTTP,
    TcpClient,
    commands,
    make_gateway,
    packets,
    udp,
)
from ztna.proto.gateway import Gateway
from ztna.proto.gateway_types import Backend, GatewayLimits, GatewayService, OpenTcp, OpenUdp, SendUdp
from ztna.proto.packet import (
    ICMP,
    UDP,
    UNREACHABLE_HOST,
    UNREACHABLE_PROTOCOL,
    build_ipv4,
    embedded_flow_key,
    icmp_unreachable,
    udp_payload,
)
from ztna.proto.packet_fragments import fragment


def only_error(gateway: Gateway, about: bytes) -> int:
    """The code of the one ICMP error the gateway sends, seen to quote the packet it is about."""
    (command,) = commands(gateway)
    packet = command.packet  # type: ignore[union-attr]
    (ip,) = packets([command])
    assert ip.destination == AGENT
    assert ip.payload[8:] == about[: len(ip.payload) - 8]
    return icmp_unreachable(packet)[0]


@pytest.mark.parametrize(
    "packet",
    [b"", b"\x45", b"\x12\x00\x04echo", b"\x60" + bytes(60), udp()[:-1], udp() + b"\0", b"\x5a\x10" + bytes(40)],
    ids=["empty", "short", "control", "ipv6", "truncated", "padded", "keepalive"],
)
def test_malformed_packets_are_counted(packet: bytes) -> None:
    gateway = make_gateway()
    gateway.packet_received(packet, 1.0)
    assert commands(gateway) == []
    assert gateway.stats.dropped_malformed == 1


def test_wrong_checksums_are_counted() -> None:
    gateway = make_gateway()
    for at in (10, 27, 30):
        bad = bytearray(udp())
        bad[at] ^= 1
        gateway.packet_received(bytes(bad), 1.0)
    assert commands(gateway) == []
    assert gateway.stats.dropped_checksum == 3


def test_other_protocols_are_refused() -> None:
    gateway = make_gateway()
    packet = build_ipv4(47, AGENT, ECHO, bytes(40))
    gateway.packet_received(packet, 1.0)
    assert only_error(gateway, packet) == UNREACHABLE_PROTOCOL
    assert gateway.stats.dropped_protocol == 1


def test_unknown_destination_is_unreachable() -> None:
    gateway = make_gateway()
    packet = udp(destination=0x7F000001)
    gateway.packet_received(packet, 1.0)
    assert only_error(gateway, packet) == UNREACHABLE_HOST
    assert gateway.stats.dropped_no_service == 1


@given(st.integers(0, 0xFFFFFFFF), st.integers(0, 65535), st.sampled_from(["udp", "tcp"]))
def test_no_packet_can_name_a_backend(destination: int, port: int, protocol: str) -> None:
    # Services are named, never addressed: whatever the packet says, only configured backends are opened.
    gateway = make_gateway()
    if protocol == "udp":
        gateway.packet_received(udp(destination=destination, to=port), 1.0)
    else:
        gateway.packet_received(TcpClient(destination=destination, to=port).syn(), 1.0)
    opened = [command.backend for command in commands(gateway) if isinstance(command, OpenUdp | OpenTcp)]
    expected = [BACKEND] if destination == ECHO else []
    assert opened == expected or (destination == HTTP and port == 80)


def test_fragmented_datagram_is_put_together() -> None:
    gateway = make_gateway()
    data = bytes(range(256)) * 12
    pieces = fragment(UDP, AGENT, ECHO, udp_payload(AGENT, 1000, ECHO, 9999, data), 1000, 77)
    for piece in reversed(pieces):
        gateway.packet_received(piece, 1.0)
    assert commands(gateway) == [OpenUdp(1, BACKEND), SendUdp(1, data)]
    assert gateway.stats.fragments_reassembled == 1


def test_errors_are_rationed() -> None:
    gateway = make_gateway(GatewayLimits(errors_per_s=10))
    for _ in range(50):
        gateway.packet_received(udp(destination=HTTP), 1.0)
    assert len(commands(gateway)) == 10
    assert gateway.stats.errors_suppressed == 40
    gateway.packet_received(udp(destination=HTTP), 1.5)
    assert len(commands(gateway)) == 1


def test_services_are_checked() -> None:
    def make(*services: GatewayService) -> Gateway:
        return Gateway(services, budget_bytes=1294, random=bytes)

    with pytest.raises(ValueError, match="'a': neither backend nor ports"):
        make(GatewayService(id="a", virtual_ip=1))
    backend = Backend("b", 1)
    with pytest.raises(ValueError, match=r"'b': virtual_ip 0\.0\.0\.1 is already that of 'a'"):
        make(
            GatewayService(id="a", virtual_ip=1, backend=backend), GatewayService(id="b", virtual_ip=1, backend=backend)
        )
    with pytest.raises(ValueError, match="'a': virtual_ip is missing"):
        make(
            GatewayService(id="a", virtual_ip=None, backend=backend),
            GatewayService(id="b", virtual_ip=1, backend=backend),
        )


def test_single_service_without_address_takes_any_destination() -> None:
    service = GatewayService(id="a", virtual_ip=None, backend=BACKEND)
    gateway = Gateway([service], budget_bytes=1294, random=bytes)
    gateway.packet_received(udp(destination=0x0A640001), 1.0)
    assert commands(gateway) == [OpenUdp(1, BACKEND), SendUdp(1, b"hello")]


def test_protocol_of_a_service_is_kept() -> None:
    service = GatewayService(id="a", virtual_ip=ECHO, backend=BACKEND, protocol="tcp")
    gateway = Gateway([service], budget_bytes=1294, random=bytes)
    gateway.packet_received(udp(), 1.0)
    assert packets(commands(gateway))[0].protocol == ICMP
    assert gateway.stats.dropped_port_refused == 1


def test_commands_about_what_is_gone_are_survived() -> None:
    gateway = make_gateway()
    gateway.udp_received(7, b"x", 1.0)
    gateway.tcp_connected(7, 1.0)
    gateway.tcp_data(7, b"x", 1.0)
    gateway.tcp_eof(7, 1.0)
    gateway.tcp_reset(7, 1.0)
    gateway.tcp_writable(7, 5, 1.0)
    assert commands(gateway) == []
    assert gateway.stats.dropped_udp_unknown_flow == 1
    assert gateway.get_timer() is None


def test_embedded_flow_of_our_errors_is_the_offending_flow() -> None:
    # The relay routes an error by the packet it quotes.
    gateway = make_gateway()
    gateway.packet_received(udp(destination=HTTP, to=53), 1.0)
    (command,) = commands(gateway)
    assert embedded_flow_key(command.packet) == (UDP, AGENT, 1000, HTTP, 53)  # type: ignore[union-attr]


PACKETS = st.one_of(
    st.binary(max_size=100),
    st.builds(udp, st.integers(0, 3), st.binary(max_size=20), st.sampled_from([ECHO, HTTP, 5]), st.integers(0, 80)),
    st.builds(
        lambda protocol, payload, flags: build_ipv4(protocol, AGENT, ECHO, payload, flags_and_offset=flags),
        st.sampled_from([1, 6, 17, 50]),
        st.binary(max_size=60),
        st.integers(0, 0x3FFF),
    ),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(PACKETS, max_size=30))
def test_no_sequence_of_packets_raises(sequence: list[bytes]) -> None:
    gateway = make_gateway()
    now = 1.0
    for packet in sequence:
        gateway.packet_received(packet, now)
        commands(gateway)
        now += 1.0
        gateway.handle_timer(now)
    commands(gateway)
    gateway.handle_timer(now + 10_000)
    commands(gateway)
    assert gateway.udp_flows == gateway.tcp_sessions == 0
    assert gateway.get_timer() is None
