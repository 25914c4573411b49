"""The short way through a connection, in virtual time: it is taken, and speaks aioquic with aioquic."""

import random
from collections.abc import Callable

import pytest
from aioquic._buffer import Buffer
from aioquic.quic import events
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import pull_quic_header
from hypothesis import given
from hypothesis import strategies as st

from tests.ztna.io.quic_rig import Pki
from ztna.io.quic_config import client_configuration, server_configuration
from ztna.io.quic_connection import GuardedConnection
from ztna.io.quic_fast import datagram_frames
from ztna.io.quic_types import ConnectionLimits

CLIENT, SERVER = ("203.0.113.1", 40000), ("198.51.100.1", 4433)
DELAY_S = 0.01


class Wire:
    """Two connections, a link with loss, duplication and reordering, and virtual time."""

    def __init__(self, pki: Pki, server_is_stock: bool = False) -> None:
        self.random = random.Random(1)
        self.loss = self.duplicate = self.jitter_s = 0.0
        self.now = 0.0
        self.in_flight: list[tuple[float, int, bytes]] = []
        self.client = GuardedConnection(
            configuration=client_configuration(pki.client_settings()), limits=ConnectionLimits()
        )
        self.client.connect(SERVER, self.now)
        first = self.client.datagrams_to_send(self.now)
        header = pull_quic_header(Buffer(data=first[0][0]), host_cid_length=20)
        configuration = server_configuration(pki.server_settings())
        original = header.destination_cid
        self.server: QuicConnection = (
            QuicConnection(configuration=configuration, original_destination_connection_id=original)
            if server_is_stock
            else GuardedConnection(
                configuration=configuration,
                limits=ConnectionLimits(),
                original_destination_connection_id=original,
            )
        )
        self.ends = (self.client, self.server)
        self.received: tuple[list[bytes], list[bytes]] = ([], [])
        self.terminated: list[events.ConnectionTerminated] = []
        self.plain = [0, 0]
        for data, _ in first:
            self.deliver(1, data)
        self.run(1.0)
        for end in self.ends:
            if isinstance(end, GuardedConnection):
                assert end.is_confirmed
                end.trim()

    def _enqueue(self, to: int, packets: list[tuple[bytes, tuple[str, int]]]) -> None:
        for data, _ in packets:
            for _ in range(1 + (self.random.random() < self.duplicate)):
                if self.random.random() >= self.loss:
                    self.in_flight.append((self.now + DELAY_S + self.random.random() * self.jitter_s, to, data))

    def transmit(self) -> None:
        for index, end in enumerate(self.ends):
            self._enqueue(1 - index, end.datagrams_to_send(self.now))

    def deliver(self, to: int, data: bytes) -> None:
        end, source = self.ends[to], (SERVER, CLIENT)[to]
        frames = None
        if isinstance(end, GuardedConnection):
            frames = end.receive(data, source, self.now)
        else:
            end.receive_datagram(data, source, self.now)
        if frames is not None:
            self.plain[to] += 1
            self.received[to].extend(frames)
        self.drain(to)

    def drain(self, to: int) -> None:
        end = self.ends[to]
        while (event := end.next_event()) is not None:
            if isinstance(event, events.DatagramFrameReceived):
                self.received[to].append(event.data)
            elif isinstance(event, events.ConnectionTerminated):
                self.terminated.append(event)

    def run(self, seconds: float) -> None:
        """Drive both ends to the next thing that happens, until `seconds` from now."""
        until = self.now + seconds
        for _ in range(100_000):
            self.transmit()
            timers = [end.get_timer() for end in self.ends]
            due = [timer for timer in timers if timer is not None] + [at for at, _, _ in self.in_flight]
            if not due or min(due) > until:
                break
            self.now = max(self.now, min(due))
            for index, (end, timer) in enumerate(zip(self.ends, timers, strict=True)):
                if timer is not None and timer <= self.now:
                    end.handle_timer(self.now)
                    self.drain(index)
            arrived = sorted(entry for entry in self.in_flight if entry[0] <= self.now)
            self.in_flight = [entry for entry in self.in_flight if entry[0] > self.now]
            for _, to, data in arrived:
                self.deliver(to, data)
        self.now = until

    def send(self, index: int, data: bytes) -> None:
        end = self.ends[index]
        if isinstance(end, GuardedConnection):
            assert end.queue_datagram(data)
        else:
            end.send_datagram_frame(data)


@pytest.fixture(scope="module")
def pki() -> Pki:
    return Pki()


@pytest.fixture(params=[False, True], ids=["both-ours", "stock-server"])
def wire(request: pytest.FixtureRequest, pki: Pki) -> Wire:
    return Wire(pki, server_is_stock=request.param)


def test_datagrams_of_all_sizes_arrive_equal_and_the_short_way_is_taken(wire: Wire) -> None:
    sizes = [0, 1, 63, 64, 65, 300, 1100, wire.client.max_datagram_payload]
    sent = [bytes([number]) * size for number, size in enumerate(sizes)]
    for data in sent:
        for index in (0, 1):
            wire.send(index, data)
        wire.run(0.2)
    assert wire.received == (sent, sent)
    assert wire.plain[0] >= len(sent) - 2, "the client took the long way"
    assert wire.client._settled


def test_streams_and_datagrams_share_a_lossy_reordering_duplicating_link(wire: Wire) -> None:
    wire.loss, wire.duplicate, wire.jitter_s = 0.05, 0.05, 0.03
    stream = wire.client.queue_stream(None, b"begin")
    for number in range(400):
        wire.send(0, b"c%d" % number)
        wire.send(1, b"s%d" % number)
        if number % 50 == 0:
            wire.client.queue_stream(stream, b"x" * 3000)
        wire.run(0.005)
    wire.run(5.0)
    for came, letter in zip(wire.received, (b"s", b"c"), strict=True):
        assert len(came) == len(set(came)), "a duplicate was handed up"
        assert 330 <= len(came) < 400
        assert set(came) <= {letter + b"%d" % number for number in range(400)}
    assert not wire.terminated
    assert 0 <= wire.client._loss.bytes_in_flight < 1200
    assert wire.server._streams[stream].receiver.highest_offset == 5 + 8 * 3000


def test_more_than_the_window_waits_for_acknowledgements(wire: Wire) -> None:
    for number in range(60):
        assert wire.client.queue_datagram(bytes([number]) * 1100)
    assert len(wire.client.datagrams_to_send(wire.now)) <= 11, "the congestion window was overrun"
    assert wire.client.datagrams_waiting >= 49


def test_key_update_by_either_side_goes_on(wire: Wire) -> None:
    for index in (0, 1):
        wire.ends[index].request_key_update()
        for sender in (index, 1 - index):
            # One after the other: aioquic keeps no old keys for what was sent before the update.
            wire.send(sender, b"after update %d" % index)
            wire.run(0.5)
    wanted = [b"after update 0", b"after update 1"]
    assert wire.received == (wanted, wanted)


def test_whatever_is_asked_for_is_sent_by_a_connection_that_had_nothing_to_say(wire: Wire) -> None:
    client = wire.client
    stream = client.queue_stream(None, b"begin")
    asked: list[Callable[[], object]] = [
        lambda: client.send_ping(1),
        lambda: client.queue_stream(stream, b"more"),
        lambda: client.reset_stream(stream, 7),
        lambda: client.stop_stream(stream, 7),
        lambda: client.change_connection_id(),
        lambda: client.close(error_code=0),
    ]
    for ask in asked:
        wire.run(0.5)
        assert client._settled
        assert client.datagrams_to_send(wire.now) == []
        ask()
        assert client.datagrams_to_send(wire.now)


def test_altered_repeated_and_foreign_packets_change_nothing(wire: Wire) -> None:
    client = wire.client
    wire.send(1, b"once")
    packet = wire.server.datagrams_to_send(wire.now)[0][0]
    altered = packet[:-1] + bytes([packet[-1] ^ 1])
    for data, source in ((altered, SERVER), (packet, ("192.0.2.9", 9)), (packet[:30], SERVER), (packet[:1], SERVER)):
        assert client.receive(data, source, wire.now) is None
    assert client.receive(packet, SERVER, wire.now) == [b"once"]
    assert client.receive(packet, SERVER, wire.now) is None
    assert client.next_event() is None
    assert not client.is_ended


def test_idle_connection_ends_and_a_busy_one_does_not(wire: Wire) -> None:
    for _ in range(20):
        wire.send(0, b"busy")
        wire.run(3.0)
    assert not wire.terminated
    wire.run(60.0)
    assert wire.terminated


def test_protocol_violation_on_the_short_way_closes(pki: Pki) -> None:
    wire = Wire(pki)
    server = wire.server
    assert isinstance(server, GuardedConnection)
    server._configuration.max_datagram_frame_size = 100
    wire.send(0, bytes(500))
    wire.run(0.1)
    assert server.is_ended
    assert server.close_event is not None
    assert server.close_event.error_code == 0x0A


@given(st.lists(st.binary(max_size=90), min_size=1, max_size=8), st.booleans())
def test_frames_are_found_as_they_were_written(items: list[bytes], last_without_length: bool) -> None:
    parts = [b"\x31" + (len(item) | 0x4000).to_bytes(2, "big") + item for item in items]
    if last_without_length:
        parts[-1] = b"\x30" + items[-1]
    assert datagram_frames(b"".join(parts), 2000) == items
    assert datagram_frames(b"".join(parts) + b"\x31", 2000) is None or last_without_length
    assert datagram_frames(b"\x01" + b"".join(parts), 2000) is None


@given(st.binary(max_size=60))
def test_no_payload_raises(payload: bytes) -> None:
    frames = datagram_frames(payload, 50)
    assert frames is None or sum(map(len, frames)) < len(payload)
