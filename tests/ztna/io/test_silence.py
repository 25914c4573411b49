"""Silence of the relay: blocked only where nothing at all comes back, in time, and not where a host refuses."""

import socket
import time
from collections.abc import Callable, Iterator

import pytest

from tests.support.overlay import HOST
from ztna.io.silence import BLOCKED_AFTER_S, Silence
from ztna.io.udp import UdpCounters


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def relay() -> Iterator[socket.socket]:
    """A socket where a relay would be; it answers nothing by itself."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((HOST, 0))
        sock.settimeout(2)
        yield sock


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_nothing_back_for_a_while_is_blocked_and_says_how_it_was_found_out(relay: socket.socket) -> None:
    clock = Clock()
    silence = Silence(UdpCounters(), clock)
    assert silence.diagnosis()["blocked_by"] is None
    silence.dialled(relay.getsockname())
    assert silence.diagnosis()["blocked_by"] is None
    clock.now += BLOCKED_AFTER_S
    silence.dialled(relay.getsockname())
    found = silence.diagnosis()
    assert found["blocked_by"] == "udp-blocked"
    assert (
        found["evidence"] == f"2 handshakes and STUN requests to {HOST}:{relay.getsockname()[1]} in 5 s, no packet back"
    )
    assert "Let UDP out" in str(found["advice"])
    silence.connected()
    assert silence.diagnosis()["blocked_by"] is None


def test_a_host_that_refuses_is_reached() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((HOST, 0))
        nobody = sock.getsockname()
    clock = Clock()
    silence = Silence(UdpCounters(), clock)
    silence.dialled(nobody)
    clock.now += 60
    eventually(lambda: silence.diagnosis()["blocked_by"] is None)
    silence.close()


def test_an_answer_to_the_probe_is_a_way_through(relay: socket.socket) -> None:
    clock = Clock()
    silence = Silence(UdpCounters(), clock)
    silence.dialled(relay.getsockname())
    request, source = relay.recvfrom(2048)
    assert request[:2] == b"\0\1"
    clock.now += 60
    assert silence.diagnosis()["blocked_by"] == "udp-blocked"
    relay.sendto(b"anything", source)
    eventually(lambda: silence.diagnosis()["blocked_by"] is None)
    silence.close()


def test_a_single_packet_ends_the_silence_and_the_next_dial_begins_another(relay: socket.socket) -> None:
    clock, counters = Clock(), UdpCounters()
    silence = Silence(counters, clock)
    silence.dialled(relay.getsockname())
    clock.now += 60
    counters.received_packets += 1
    assert silence.diagnosis()["blocked_by"] is None
    silence.dialled(relay.getsockname())
    clock.now += BLOCKED_AFTER_S - 1
    assert silence.diagnosis()["blocked_by"] is None
    clock.now += 2
    assert silence.diagnosis()["blocked_by"] == "udp-blocked"
    silence.close()


def test_no_route_is_silence_too() -> None:
    clock = Clock()
    silence = Silence(UdpCounters(), clock)
    silence.dialled(("0.0.0.1", 4433))
    clock.now += 60
    assert silence.diagnosis()["blocked_by"] == "udp-blocked"
    silence.close()
