"""ICMP echo through the gateway: never answered for a backend that does not."""

from tests.ztna.proto.gateway_bed import (
    AGENT,
    BACKEND,
    ECHO,
    HTTP,
    WEB,
    TcpClient,
    commands,
    make_gateway,
    packets,
    udp,
)
from ztna.proto.gateway import Gateway
from ztna.proto.gateway_types import (
    Backend,
    EmitPacket,
    GatewayLimits,
    GatewayService,
    OpenTcp,
    PingBackend,
    SocketError,
)
from ztna.proto.packet import UNREACHABLE_HOST, EchoMessage, build_echo_request, icmp_unreachable, parse_echo


def ask(gateway: Gateway, sequence: int = 1, now: float = 1.0, destination: int = ECHO, data: bytes = b"ping") -> None:
    gateway.packet_received(build_echo_request(AGENT, destination, 7, sequence, data), now)


def unreachable(gateway: Gateway) -> int:
    codes = [icmp_unreachable(c.packet)[0] for c in commands(gateway) if isinstance(c, EmitPacket)]
    assert set(codes) <= {UNREACHABLE_HOST}
    return len(codes)


def test_echo_waits_for_the_backend_and_is_answered_by_the_virtual_address() -> None:
    gateway = make_gateway()
    ask(gateway)
    ask(gateway, 2)
    assert commands(gateway) == [PingBackend(BACKEND)]
    gateway.backend_answered(BACKEND, True, 1.01)
    replies = packets(commands(gateway))
    assert [(p.source, p.destination) for p in replies] == [(ECHO, AGENT)] * 2
    assert [parse_echo(p.payload) for p in replies] == [EchoMessage(True, 7, n, b"ping") for n in (1, 2)]
    assert gateway.stats.echo_replies == 2


def test_reply_is_the_worked_vector() -> None:
    gateway = Gateway([GatewayService(id="s", virtual_ip=0x0A640001, backend=BACKEND)], budget_bytes=1294, random=bytes)
    request = bytes.fromhex("45000020 00004000 4001cc37 64400001 0a640001 0800 192d 0001 0001 70696e67")
    gateway.packet_received(request, 1.0)
    commands(gateway)
    gateway.backend_answered(BACKEND, True, 1.0)
    expected = "45000020 00004000 4001cc37 0a640001 64400001 0000 212d 0001 0001 70696e67"
    assert commands(gateway) == [EmitPacket(bytes.fromhex(expected))]


def test_backend_that_does_not_answer_is_unreachable() -> None:
    # Peers in the field answer for any destination, up or not.
    gateway = make_gateway()
    ask(gateway)
    commands(gateway)
    gateway.backend_answered(BACKEND, False, 2.0)
    assert unreachable(gateway) == 1
    ask(gateway, 2, 2.5)
    assert unreachable(gateway) == 1
    # It is asked again soon.
    ask(gateway, 3, 3.5)
    assert commands(gateway) == [PingBackend(BACKEND)]


def test_silence_is_no_answer() -> None:
    gateway = make_gateway()
    ask(gateway)
    commands(gateway)
    assert gateway.get_timer() == 3.0
    gateway.handle_timer(3.0)
    assert unreachable(gateway) == 1
    assert gateway.stats.echo_unreachable == 1
    assert gateway.get_timer() is None


def test_known_answer_is_believed_for_a_while_only() -> None:
    gateway = make_gateway()
    ask(gateway)
    commands(gateway)
    gateway.backend_answered(BACKEND, True, 1.0)
    commands(gateway)
    ask(gateway, 2, 5.9)
    assert len(packets(commands(gateway))) == 1
    ask(gateway, 3, 6.1)
    assert commands(gateway) == [PingBackend(BACKEND)]


def test_traffic_of_the_backend_proves_it_alive() -> None:
    gateway = make_gateway()
    gateway.packet_received(udp(), 1.0)
    gateway.udp_received(1, b"reply", 1.1)
    commands(gateway)
    ask(gateway, 1, 2.0)
    assert parse_echo(packets(commands(gateway))[0].payload) is not None
    # It is the host that is alive, so its other services answer too.
    ask(gateway, 1, 2.0, HTTP)
    assert packets(commands(gateway))[0].source == HTTP


def test_refusal_is_a_sign_of_life_and_unreachability_is_none() -> None:
    gateway = make_gateway()
    gateway.packet_received(TcpClient().syn(), 1.0)
    (opened,) = commands(gateway)
    assert isinstance(opened, OpenTcp)
    gateway.tcp_failed(opened.session, SocketError.REFUSED, 1.1)
    commands(gateway)
    ask(gateway, 1, 1.2)
    assert len(packets(commands(gateway))) == 1
    gateway.packet_received(udp(), 1.3)
    commands(gateway)
    gateway.udp_error(1, SocketError.UNREACHABLE, 1.4)
    commands(gateway)
    ask(gateway, 2, 1.5)
    assert unreachable(gateway) == 1


def test_connect_is_a_sign_of_life_for_those_waiting() -> None:
    gateway = make_gateway()
    ask(gateway, 1, 1.0, HTTP)
    assert commands(gateway) == [PingBackend(WEB)]
    TcpClient(destination=HTTP, to=80).syn()
    gateway.packet_received(TcpClient(destination=HTTP, to=80).syn(), 1.0)
    (opened,) = commands(gateway)
    assert isinstance(opened, OpenTcp)
    gateway.tcp_connected(opened.session, 1.1)
    assert any(p.protocol == 1 for p in packets(commands(gateway)))


def test_echo_for_no_service_is_unreachable_and_stray_replies_are_dropped() -> None:
    gateway = make_gateway()
    ask(gateway, destination=0x64400077)
    assert unreachable(gateway) == 1
    reply = bytes.fromhex("45000020 00004000 4001cc37 0a640001 64400001 0000 212d 0001 0001 70696e67")
    gateway.packet_received(reply, 1.0)
    assert commands(gateway) == []
    assert gateway.stats.dropped_no_service == 2


def test_large_echo_is_answered_in_fragments() -> None:
    gateway = make_gateway()
    gateway.backend_answered(BACKEND, True, 1.0)
    ask(gateway, data=bytes(1290))
    assert len(packets(commands(gateway))) == 2


def test_waiting_echoes_are_bounded() -> None:
    gateway = make_gateway()
    for sequence in range(100):
        ask(gateway, sequence)
    assert commands(gateway) == [PingBackend(BACKEND)]
    assert gateway.stats.dropped_echo_limit == 100 - 32
    several = [GatewayService(id=f"s{n}", virtual_ip=n, backend=Backend(f"host-{n}", 1)) for n in range(1, 50)]
    gateway = Gateway(several, budget_bytes=1294, random=bytes, limits=GatewayLimits(echoes_waiting=40))
    for n in range(1, 50):
        ask(gateway, destination=n)
    assert gateway.stats.dropped_echo_limit == 9
