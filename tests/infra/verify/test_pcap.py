"""Captures are read whatever is in front of IP, and sorted by the far end."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.verify.pcap import Carried, UdpPacket, carried, read_pcap

RELAY, AGENT, CONNECTOR = "172.20.0.2", "172.20.0.21", "172.20.0.22"


def octets(address: str) -> bytes:
    return bytes(map(int, address.split(".")))


def ipv4(source: str, source_port: int, target: str, target_port: int, size: int, protocol: int = 17) -> bytes:
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, size, 0, 0, 64, protocol, 0, octets(source), octets(target))
    return head + struct.pack("!HHHH", source_port, target_port, size - 20, 0) + bytes(size - 28)


def pcap(link: int, frames: list[bytes], *, order: str = "<", snap: int = 96) -> bytes:
    magic = b"\xd4\xc3\xb2\xa1" if order == "<" else b"\xa1\xb2\xc3\xd4"
    records = [struct.pack(f"{order}4I", 0, 0, min(len(f), snap), len(f)) + f[:snap] for f in frames]
    return magic + struct.pack(f"{order}HHiIII", 2, 4, 0, 0, snap, link) + b"".join(records)


FRONT = {
    1: bytes(12) + b"\x08\x00",
    101: b"",
    113: bytes(14) + b"\x08\x00",
    276: b"\x08\x00" + bytes(18),
}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("link", FRONT)
def test_packets_are_found_behind_each_kind_of_header(link: int, order: str) -> None:
    frame = FRONT[link] + ipv4(AGENT, 40001, CONNECTOR, 40002, 1028)
    assert list(read_pcap(pcap(link, [frame], order=order))) == [UdpPacket(AGENT, 40001, CONNECTOR, 40002, 1028)]


def test_ipv6_is_read_too() -> None:
    packet = struct.pack("!IHBB", 6 << 28, 108, 17, 64) + bytes(15) + b"\x01" + bytes(15) + b"\x02"
    packet += struct.pack("!HHHH", 5, 6, 108, 0) + bytes(100)
    (found,) = read_pcap(pcap(1, [bytes(12) + b"\x86\xdd" + packet]))
    assert found == UdpPacket("::1", 5, "::2", 6, 148)


def test_what_is_not_udp_is_passed_over() -> None:
    good = FRONT[1] + ipv4(AGENT, 1, CONNECTOR, 2, 100)
    arp = bytes(12) + b"\x08\x06" + bytes(28)
    tcp = FRONT[1] + ipv4(AGENT, 1, CONNECTOR, 2, 100, protocol=6)
    fragment = bytearray(good)
    fragment[14 + 7] = 5
    assert len(list(read_pcap(pcap(1, [arp, tcp, bytes(fragment), b"", good])))) == 1


@pytest.mark.parametrize("data", [b"", b"\xd4\xc3\xb2\xa1", b"GIF89a" + bytes(40), pcap(147, [])])
def test_what_is_no_capture_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"pcap|147"):
        list(read_pcap(data))


@given(st.binary(max_size=300), st.integers(0, 400))
def test_damaged_captures_end_and_do_not_raise(noise: bytes, cut: int) -> None:
    frame = FRONT[1] + ipv4(AGENT, 1, CONNECTOR, 2, 100)
    list(read_pcap(pcap(1, [frame, noise, frame])[: 24 + cut]))
    list(read_pcap(pcap(1, [])[:24] + noise))


def sort(packets: list[UdpPacket], own_port: int | None = None) -> Carried:
    return carried(packets, peers={CONNECTOR}, relays={RELAY}, relay_ports={4433, 4434}, own_port=own_port)


def test_packets_are_sorted_by_their_far_end() -> None:
    packets = [
        UdpPacket(AGENT, 40001, CONNECTOR, 40002, 1000),
        UdpPacket(CONNECTOR, 40002, AGENT, 40001, 900),
        UdpPacket(AGENT, 40001, RELAY, 4433, 100),
        UdpPacket(RELAY, 4433, AGENT, 40001, 10),
        UdpPacket(AGENT, 39999, RELAY, 4433, 7),
        UdpPacket(AGENT, 5353, "192.0.2.53", 53, 70),
    ]
    assert sort(packets) == Carried(1900, 117, 1)
    assert sort(packets, 40001) == Carried(1900, 110, 1)


def test_a_connector_on_the_relays_own_host_is_told_by_its_port() -> None:
    packets = [UdpPacket(AGENT, 40001, RELAY, 50000, 1000), UdpPacket(AGENT, 40001, RELAY, 4433, 50)]
    assert carried(packets, peers={RELAY}, relays={RELAY}, relay_ports={4433}) == Carried(1000, 50, 0)
