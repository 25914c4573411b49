"""TCP through the gateway: admission, the join with the backend, bounds. The endpoint itself is tested in test_tcp."""

import pytest

from tests.ztna.proto.gateway_bed import (
    AGENT,
    BACKEND,
    BUDGET_BYTES,
    ECHO,
    HTTP,
    WEB,
    TcpClient,
    commands,
    make_gateway,
    packets,
    segments,
)
from ztna.proto.gateway_types import (
    AbortTcp,
    CloseTcp,
    EmitPacket,
    GatewayLimits,
    OpenTcp,
    PauseTcp,
    ResumeTcp,
    ShutdownTcp,
    SocketError,
    WriteTcp,
)
from ztna.proto.packet import build_fragmentation_needed
from ztna.proto.tcp_segment import ACK, FIN, HEADERS_BYTES, RST, SYN, Segment


def test_agent_is_accepted_when_the_backend_has_accepted() -> None:
    gateway = make_gateway()
    client = TcpClient()
    gateway.packet_received(client.syn(), 1.0)
    assert commands(gateway) == [OpenTcp(1, BACKEND)]
    gateway.packet_received(client.syn(), 2.0)
    assert commands(gateway) == []
    gateway.tcp_connected(1, 2.5)
    found = commands(gateway)
    (packet,) = packets(found)
    assert (packet.source, packet.destination) == (ECHO, AGENT)
    (syn_ack,) = segments(found)
    assert (syn_ack.seq, syn_ack.ack, syn_ack.flags) == (0x01020304, 1001, SYN | ACK)


def test_syn_ack_vector_with_our_differences() -> None:
    # Peers in the field send no options, so that stacks assume an MSS of 536; ours says what fits.
    gateway = make_gateway()
    gateway.packet_received(TcpClient(40000).syn(), 1.0)
    commands(gateway)
    gateway.tcp_connected(1, 1.0)
    (command,) = commands(gateway)
    assert isinstance(command, EmitPacket)
    assert command.packet[24:32] == bytes.fromhex("01020304 000003e9")
    assert command.packet[33] == 0x12
    assert command.packet[40:44] == bytes.fromhex("0204") + (BUDGET_BYTES - HEADERS_BYTES).to_bytes(2, "big")


@pytest.mark.parametrize("mss", [None, 1240])
def test_agents_that_may_be_old_are_told_what_fits_them(mss: int | None) -> None:
    # Their TUN says MTU 1280 but their DATAGRAMs hold 1156 bytes, 2 of them and the service id being the wrapper's.
    gateway = make_gateway()
    gateway.packet_received(TcpClient(mss=mss).syn(), 1.0)
    commands(gateway)
    gateway.tcp_connected(1, 1.0)
    (syn_ack,) = segments(commands(gateway))
    assert syn_ack.options.mss == 1156 - 2 - len("echo-service") - 40


def test_refused_backend_is_a_refused_connection() -> None:
    gateway = make_gateway()
    gateway.packet_received(TcpClient().syn(), 1.0)
    commands(gateway)
    gateway.tcp_failed(1, SocketError.REFUSED, 1.1)
    # The shell has forgotten the session itself: nothing for it to close.
    assert segments(found := commands(gateway)) == [Segment(0, 1001, RST | ACK, 0)]
    assert len(found) == 1
    assert gateway.tcp_sessions == 0


def test_backend_that_does_not_connect_in_time_is_given_up() -> None:
    gateway = make_gateway()
    gateway.packet_received(TcpClient().syn(), 1.0)
    commands(gateway)
    assert gateway.get_timer() == 6.0
    gateway.handle_timer(6.0)
    aborted, refused = commands(gateway)
    assert aborted == AbortTcp(1)
    assert segments([refused]) == [Segment(0, 1001, RST | ACK, 0)]
    assert gateway.get_timer() is None


def test_ports_that_are_not_admitted_are_reset() -> None:
    gateway = make_gateway()
    for client in (TcpClient(destination=HTTP, to=8080), TcpClient(destination=0x64400077)):
        gateway.packet_received(client.syn(), 1.0)
        assert segments(commands(gateway)) == [Segment(0, 1001, RST | ACK, 0)]
    assert gateway.stats.dropped_port_refused == 1
    assert gateway.stats.dropped_no_service == 1
    gateway.packet_received(TcpClient(destination=HTTP, to=80).syn(), 1.0)
    assert commands(gateway) == [OpenTcp(1, WEB)]


def test_segments_of_no_connection_are_reset_but_not_resets() -> None:
    gateway = make_gateway()
    client = TcpClient()
    client.their_next = 77
    gateway.packet_received(client.segment(ACK, b"who is there"), 1.0)
    assert segments(commands(gateway)) == [Segment(77, 0, RST, 0)]
    gateway.packet_received(client.segment(RST), 1.0)
    gateway.packet_received(client.segment(SYN | RST), 1.0)
    assert commands(gateway) == []
    gateway.packet_received(client.segment(SYN | ACK), 1.0)
    assert segments(commands(gateway))[0].flags == RST
    assert gateway.stats.dropped_no_session == 4


def test_data_both_ways() -> None:
    gateway = make_gateway()
    client = TcpClient()
    session = client.open(gateway)
    gateway.packet_received(client.segment(ACK, b"ab"), 1.1)
    gateway.packet_received(client.segment(ACK, b"cd"), 1.1)
    write, *rest = commands(gateway)
    # Merged per batch, and so is the acknowledgment.
    assert write == WriteTcp(session, b"abcd")
    assert [s.ack for s in segments(rest)] == [1005]
    gateway.tcp_data(session, b"reply", 1.2)
    (reply,) = segments(commands(gateway))
    assert (reply.ack, bytes(reply.payload)) == (1005, b"reply")


def test_segments_to_the_agent_fit_the_budget_and_old_relays() -> None:
    for budget_bytes, expected in ((BUDGET_BYTES, 1254), (1340, 1266)):
        gateway = make_gateway(budget_bytes=budget_bytes)
        client = TcpClient(mss=1460)
        session = client.open(gateway)
        gateway.tcp_data(session, bytes(9000), 1.2)
        assert max(len(s.payload) for s in segments(commands(gateway))) == expected


def test_smaller_budget_reaches_open_sessions() -> None:
    gateway = make_gateway()
    client = TcpClient()
    session = client.open(gateway)
    gateway.set_budget(1142)
    gateway.tcp_data(session, bytes(9000), 1.2)
    assert max(len(s.payload) for s in segments(commands(gateway))) == 1102


def test_router_saying_fragmentation_needed_is_believed() -> None:
    gateway = make_gateway()
    client = TcpClient()
    session = client.open(gateway)
    gateway.tcp_data(session, bytes(2508), 1.2)
    first = next(c.packet for c in commands(gateway) if isinstance(c, EmitPacket))
    error = build_fragmentation_needed(0x0A000001, first, 1000)
    assert error is not None
    # The error goes to the sender of the packet, that is, to the service's address.
    gateway.packet_received(error, 1.3)
    commands(gateway)
    gateway.tcp_data(session, bytes(960), 1.4)
    assert [len(s.payload) for s in segments(commands(gateway))] == [960]
    gateway.tcp_data(session, bytes(1000), 1.4)
    assert [len(s.payload) for s in segments(commands(gateway))] == [960, 40]


def test_half_close_by_the_agent_then_by_the_backend() -> None:
    gateway = make_gateway()
    client = TcpClient()
    session = client.open(gateway)
    gateway.packet_received(client.segment(ACK | FIN, b"end"), 1.1)
    write, shutdown, *acknowledged = commands(gateway)
    # The payload of a FIN is delivered, and before the end.
    assert (write, shutdown) == (WriteTcp(session, b"end"), ShutdownTcp(session))
    assert segments(acknowledged)[0].ack == 1005
    gateway.tcp_writable(session, 3, 1.2)
    gateway.tcp_data(session, b"answer", 1.3)
    gateway.tcp_eof(session, 1.3)
    (last,) = segments(commands(gateway))
    assert (bytes(last.payload), last.flags & FIN) == (b"answer", FIN)
    client.their_next += 7
    gateway.packet_received(client.segment(), 1.4)
    assert commands(gateway) == [CloseTcp(session)]
    assert gateway.tcp_sessions == 0


def test_socket_is_kept_until_the_backend_took_everything() -> None:
    gateway = make_gateway()
    client = TcpClient()
    session = client.open(gateway)
    gateway.tcp_eof(session, 1.0)
    commands(gateway)
    client.their_next += 1
    gateway.packet_received(client.segment(ACK | FIN, b"slow"), 1.1)
    found = commands(gateway)
    assert WriteTcp(session, b"slow") in found
    assert CloseTcp(session) not in found
    gateway.tcp_writable(session, 4, 2.0)
    assert commands(gateway) == [CloseTcp(session)]


def test_backend_that_never_takes_the_rest_is_aborted() -> None:
    gateway = make_gateway()
    client = TcpClient()
    session = client.open(gateway)
    gateway.packet_received(client.segment(ACK | FIN, b"stuck"), 1.1)
    commands(gateway)
    gateway.tcp_eof(session, 1.2)
    commands(gateway)
    client.their_next += 1
    gateway.packet_received(client.segment(), 1.3)
    assert commands(gateway) == []
    due = gateway.get_timer()
    assert due is not None
    for _ in range(5):
        gateway.handle_timer(100.0)
    assert AbortTcp(session) in commands(gateway)
    assert gateway.tcp_sessions == 0


def test_reset_by_the_agent_aborts_the_backend() -> None:
    gateway = make_gateway()
    client = TcpClient()
    session = client.open(gateway)
    gateway.packet_received(client.segment(RST | ACK), 1.1)
    assert commands(gateway) == [AbortTcp(session)]
    assert gateway.tcp_sessions == 0


def test_reset_by_the_backend_resets_the_agent() -> None:
    gateway = make_gateway()
    client = TcpClient()
    session = client.open(gateway)
    gateway.tcp_reset(session, 1.1)
    (reset,) = segments(commands(gateway))
    assert reset.flags & RST
    assert reset.seq == client.their_next


def test_slow_backend_closes_the_agents_window() -> None:
    gateway = make_gateway(GatewayLimits(tcp_buffer_bytes=20_000))
    client = TcpClient()
    session = client.open(gateway)
    for _ in range(20):
        gateway.packet_received(client.segment(ACK, bytes(1000)), 1.1)
    found = commands(gateway)
    assert segments(found)[-1].window == 0
    gateway.tcp_writable(session, 20_000, 1.2)
    assert segments(commands(gateway))[-1].window == 20_000


def test_slow_agent_pauses_the_backend_and_loses_nothing() -> None:
    gateway = make_gateway(GatewayLimits(tcp_buffer_bytes=20_000))
    client = TcpClient()
    session = client.open(gateway)
    # More than the buffer takes, in spite of the pause: kept.
    gateway.tcp_data(session, bytes(12_000), 1.1)
    gateway.tcp_data(session, bytes(20_000), 1.1)
    gateway.tcp_eof(session, 1.1)
    received = 0
    seen = []
    for _ in range(100):
        found = commands(gateway)
        seen += [c for c in found if isinstance(c, PauseTcp | ResumeTcp)]
        for segment in segments([c for c in found if isinstance(c, EmitPacket)]):
            received += len(segment.payload)
            client.their_next += segment.length
        gateway.packet_received(client.segment(), 1.2)
    assert received == 32_000
    assert seen == [PauseTcp(session), ResumeTcp(session)]


def test_sessions_are_bounded_per_source_and_in_all() -> None:
    gateway = make_gateway(GatewayLimits(tcp_sessions=6, tcp_sessions_per_source=4))
    for port in range(10):
        gateway.packet_received(TcpClient(port + 1).syn(), 1.0)
    assert gateway.tcp_sessions == 4
    for port in range(10):
        gateway.packet_received(TcpClient(port + 1, source=AGENT + 1).syn(), 1.0)
    assert gateway.tcp_sessions == 6
    assert gateway.stats.dropped_session_limit == 14
    assert sum(1 for c in commands(gateway) if isinstance(c, EmitPacket)) == 14


def test_full_table_drops_a_connection_long_silent() -> None:
    gateway = make_gateway(GatewayLimits(tcp_sessions=2))
    first, second = TcpClient(1), TcpClient(2)
    session = first.open(gateway, 1.0)
    second.open(gateway, 100.0)
    gateway.packet_received(TcpClient(3).syn(), 130.0)
    found = commands(gateway)
    assert AbortTcp(session) in found
    assert any(s.flags & RST for s in segments([c for c in found if isinstance(c, EmitPacket)]))
    assert OpenTcp(3, BACKEND) in found
    assert gateway.stats.tcp_sessions_evicted == 1
    gateway.packet_received(TcpClient(4).syn(), 131.0)
    assert gateway.stats.dropped_session_limit == 1


def test_time_wait_makes_way_first() -> None:
    gateway = make_gateway(GatewayLimits(tcp_sessions=2))
    done, alive = TcpClient(1), TcpClient(2)
    session = done.open(gateway, 1.0)
    alive.open(gateway, 1.0)
    gateway.tcp_eof(session, 1.1)
    commands(gateway)
    done.their_next += 1
    gateway.packet_received(done.segment(ACK | FIN), 1.2)
    assert CloseTcp(session) in commands(gateway)
    assert gateway.tcp_sessions == 2
    gateway.packet_received(TcpClient(3).syn(), 1.3)
    assert [c for c in commands(gateway) if not isinstance(c, EmitPacket)] == [OpenTcp(3, BACKEND)]
    gateway.packet_received(alive.segment(ACK, b"x"), 1.4)
    assert WriteTcp(2, b"x") in commands(gateway)


def test_syns_are_rationed_per_source() -> None:
    gateway = make_gateway(GatewayLimits(syn_rate_per_source=10, syn_burst_per_source=20))
    for port in range(100):
        gateway.packet_received(TcpClient(port + 1).syn(), 1.0)
    assert gateway.tcp_sessions == 20
    assert gateway.stats.dropped_syn_rate == 80
    gateway.packet_received(TcpClient(1, source=AGENT + 1).syn(), 1.0)
    assert gateway.tcp_sessions == 21


def test_buffers_of_many_sessions_share_the_memory() -> None:
    limits = GatewayLimits(tcp_buffer_bytes=512 * 1024, tcp_buffers_total_bytes=2_000_000, syn_burst_per_source=500)
    gateway = make_gateway(limits)
    windows = []
    for port in range(40):
        client = TcpClient(port + 1)
        gateway.packet_received(client.syn(), 1.0)
        commands(gateway)
        gateway.tcp_connected(port + 1, 1.0)
        windows += [s.window for s in segments(commands(gateway))]
    assert windows[0] == 65535
    assert windows[-1] == 2_000_000 // 80


def test_idle_session_ends_on_both_sides() -> None:
    gateway = make_gateway(GatewayLimits(tcp_idle_s=120))
    session = TcpClient().open(gateway, 1.0)
    gateway.handle_timer(120.9)
    assert commands(gateway) == []
    gateway.handle_timer(121.0)
    found = commands(gateway)
    assert found[0] == AbortTcp(session)
    assert segments(found[1:])[0].flags & RST


def test_bulk_does_not_keep_others_waiting() -> None:
    gateway = make_gateway()
    bulk, other = TcpClient(1), TcpClient(2)
    heavy, light = bulk.open(gateway), other.open(gateway)
    # Let the bulk connection's congestion window grow.
    for _ in range(6):
        gateway.tcp_data(heavy, bytes(100_000), 1.1)
        for segment in segments([c for c in commands(gateway) if isinstance(c, EmitPacket)]):
            bulk.their_next += len(segment.payload)
        gateway.packet_received(bulk.segment(), 1.1)
    gateway.tcp_data(light, b"small", 1.2)
    order = [len(s.payload) for s in segments([c for c in commands(gateway) if isinstance(c, EmitPacket)])]
    assert len(order) > 20
    assert order.index(5) <= 16


def test_room_holds_tcp_back_until_there_is_some() -> None:
    gateway = make_gateway()
    client = TcpClient()
    session = client.open(gateway)
    gateway.room = 3
    gateway.tcp_data(session, bytes(9000), 1.1)
    assert len(commands(gateway)) == 3
    assert commands(gateway) == []
    gateway.room = None
    assert len(commands(gateway)) == 5


def test_new_connection_in_place_of_one_in_time_wait() -> None:
    gateway = make_gateway()
    client = TcpClient()
    session = client.open(gateway)
    gateway.tcp_eof(session, 1.1)
    commands(gateway)
    client.their_next += 1
    gateway.packet_received(client.segment(ACK | FIN), 1.2)
    commands(gateway)
    gateway.packet_received(client.syn(), 2.0)
    assert commands(gateway) == [OpenTcp(session + 1, BACKEND)]
