"""One agent's side of the device: who may send what, and where packets wait."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import pytest

from ztna.io.session.session_types import UNFINISHED_CHECKSUMS
from ztna.io.session.tun_traffic import BACKLOG_PACKETS, TunTraffic, TunTrafficCounters
from ztna.proto.gateway_types import Backend, GatewayService
from ztna.proto.packet import build_udp, parse_ipv4

AGENT, OTHER, SERVICE, HIDDEN = 0x64400101, 0x64400102, 0x64400064, 0x64400065
AGENT_IP = AGENT.to_bytes(4, "big")
SERVICES = [
    GatewayService(id="open", virtual_ip=SERVICE, backend=Backend("127.0.0.1", 1)),
    GatewayService(id="hidden", virtual_ip=HIDDEN, backend=Backend("127.0.0.1", 2)),
]


@dataclass
class Device:
    offload: int = 1
    index: int = 7
    written: list[bytes] = field(default_factory=list)

    def write_batch(self, packets: list[bytes]) -> int:
        self.written += packets
        return len(packets)

    def write(self, packet: bytes) -> bool:
        return self.write_batch([packet]) == 1


@dataclass
class Gateway:
    """What `TunTraffic` needs of the shared device's owner."""

    device: Device | None = field(default_factory=Device)
    counters: TunTrafficCounters = field(default_factory=TunTrafficCounters)
    services: list[GatewayService] = field(default_factory=lambda: SERVICES)
    speaker: str | None = None
    admits: bool = True
    more: list[int] = field(default_factory=list)
    released: int = 0

    def claim(self, agent: TunTraffic) -> bool:
        return self.admits

    def release(self, agent: TunTraffic) -> None:
        self.released += 1

    def finishing(self) -> None:
        pass

    def read_on(self) -> None:
        pass

    def read_more(self, room: int) -> None:
        self.more.append(room)


@dataclass
class Core:
    room: int = 4
    max_datagram_payload: int = 1200
    sent: deque[bytes] = field(default_factory=deque)

    def send_datagrams(self, packets: list[bytes]) -> None:
        assert all(len(packet) <= self.max_datagram_payload for packet in packets)
        self.sent += packets
        self.room -= len(packets)


@dataclass(eq=False)
class Session:
    core: Core = field(default_factory=Core)
    ready: bool = True
    closed: bool = False
    unfinished_checksums: bool = True
    takes: int = 0
    flushes: int = 0

    def flush(self) -> None:
        self.flushes += 1
        self.core.room += self.takes


def made(gateway: Gateway, session: Session | None) -> Any:
    traffic: Any = TunTraffic(gateway, AGENT_IP, clock=lambda: 0.0)  # type: ignore[arg-type]
    traffic.allow(["open"])
    if session is not None:
        traffic.attach(session)
    return traffic


def packet(source: int = AGENT, destination: int = SERVICE, data: bytes = b"data") -> bytes:
    return build_udp(source, 1000, destination, 53, data)


def test_only_the_agents_own_address_and_its_services_pass() -> None:
    gateway = Gateway()
    made(gateway, Session()).packets_received(
        [packet(), packet(source=OTHER), packet(destination=HIDDEN), packet(destination=0x7F000001)]
    )
    assert gateway.device is not None
    assert gateway.device.written == [packet()]
    assert (gateway.counters.dropped_source, gateway.counters.dropped_not_allowed) == (1, 2)


def test_services_offered_later_are_reached() -> None:
    gateway = Gateway()
    traffic = made(gateway, Session())
    traffic.allow(["open", "hidden"])
    traffic.packets_received([packet(destination=HIDDEN)])
    assert traffic.forwarded == (1, len(packet()))


def test_an_address_that_cannot_be_routed_carries_nothing() -> None:
    gateway = Gateway(admits=False)
    made(gateway, Session()).packets_received([packet()])
    assert gateway.device is not None
    assert gateway.device.written == []
    assert gateway.counters.dropped_source == 1


def test_packets_wait_for_room_and_leave_in_order() -> None:
    gateway, session = Gateway(), Session()
    traffic = made(gateway, session)
    packets = [packet(source=SERVICE, destination=AGENT, data=bytes([number])) for number in range(10)]
    traffic.send(packets)
    assert list(session.core.sent) == packets[:4]
    assert traffic.is_full
    assert session.flushes == 2, "after the first the window had no more room"
    session.core.room = 100
    traffic.drain()
    assert list(session.core.sent) == packets
    assert not traffic.is_full
    assert gateway.more == [94], "what the device holds goes into the same batch"


def test_as_much_is_sent_as_the_window_takes() -> None:
    session = Session(takes=4)
    made(Gateway(), session).send([packet(source=SERVICE, destination=AGENT)] * 20)
    assert len(session.core.sent) == 20


def test_of_too_many_waiting_packets_the_newest_are_lost() -> None:
    gateway, session = Gateway(), Session(core=Core(room=0))
    traffic = made(gateway, session)
    packets = [packet(source=SERVICE, destination=AGENT, data=bytes([n >> 8, n & 255])) for n in range(600)]
    traffic.send(packets)
    assert gateway.counters.dropped_backlog == 600 - BACKLOG_PACKETS
    session.core.room = 1000
    traffic.drain()
    assert list(session.core.sent) == packets[:BACKLOG_PACKETS]


def test_a_service_that_is_no_longer_reached_is_silent() -> None:
    gateway, session = Gateway(), Session()
    traffic = made(gateway, session)
    traffic.send([packet(source=HIDDEN, destination=AGENT)])
    traffic.allow([])
    traffic.send([packet(source=SERVICE, destination=AGENT)])
    assert not session.core.sent
    assert gateway.counters.dropped_not_allowed == 2


def test_a_packet_over_the_limit_is_answered_by_icmp() -> None:
    gateway, session = Gateway(), Session()
    made(gateway, session).send([packet(source=SERVICE, destination=AGENT, data=bytes(1300))])
    assert gateway.counters.dropped_oversize == 1
    assert gateway.device is not None
    answer = parse_ipv4(gateway.device.written[0])
    assert answer is not None
    assert (answer.destination, answer.protocol, answer.payload[:2]) == (SERVICE, 1, b"\x03\x04")
    assert int.from_bytes(answer.payload[6:8], "big") == 1200


@pytest.mark.parametrize("session", [None, Session(ready=False)])
def test_without_a_session_packets_are_counted(session: Session | None) -> None:
    gateway = Gateway()
    made(gateway, session).send([packet(source=SERVICE, destination=AGENT)])
    assert gateway.counters.dropped_no_session == 1


def test_capabilities_are_the_devices() -> None:
    assert made(Gateway(), None).capabilities == (UNFINISHED_CHECKSUMS,)
    assert made(Gateway(device=Device(offload=0)), None).capabilities == ()
    assert made(Gateway(device=None), None).capabilities == ()


def test_a_session_that_ended_leaves_nothing_waiting() -> None:
    gateway, session = Gateway(), Session(core=Core(room=0))
    traffic = made(gateway, session)
    traffic.send([packet(source=SERVICE, destination=AGENT)])
    assert not traffic.idle
    traffic.detach(Session())
    assert not traffic.idle, "another session's end is not ours"
    traffic.detach(session)
    assert traffic.idle
    assert not traffic.is_full
    assert not traffic.unfinished
    traffic.close()
    assert gateway.released == 1
