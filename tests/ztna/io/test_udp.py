"""The batched UDP socket on loopback."""

import asyncio
import errno
import os
import socket
from collections.abc import Iterator

import pytest

from ztna.io.udp import Datagram, Run, UdpBindError, UdpSocket, is_bad_source


@pytest.fixture
def pair() -> Iterator[tuple[UdpSocket, UdpSocket]]:
    left, right = UdpSocket("127.0.0.1", 0), UdpSocket("127.0.0.1", 0)
    yield left, right
    left.close()
    right.close()


def read(udp: UdpSocket, count: int) -> list[Datagram]:
    """What is waiting; loopback delivers before `send` returns."""
    got: list[Datagram] = []
    while len(got) < count and (batch := udp.receive()):
        got += batch
    return got


def test_batch_of_equal_datagrams_leaves_in_one_call_and_arrives_split(pair: tuple[UdpSocket, UdpSocket]) -> None:
    left, right = pair
    sent = [bytes([index]) * 1200 for index in range(40)]
    left.send_batch([(data, right.local_address) for data in sent])
    assert left.counters.send_calls == 1
    assert read(right, 40) == [(data, left.local_address) for data in sent]
    assert right.counters.received_packets == left.counters.sent_packets == 40
    assert right.counters.received_bytes == 48_000


def test_sizes_destinations_and_order_are_kept(pair: tuple[UdpSocket, UdpSocket]) -> None:
    left, right = pair
    third = UdpSocket("127.0.0.1", 0)
    sizes = [1200, 1200, 700, 1200, 1, 1, 0, 1300, 1200]
    sent = [bytes([index]) * size for index, size in enumerate(sizes)]
    batch = [(data, right.local_address) for data in sent]
    batch.insert(2, (b"third", third.local_address))
    left.send_batch(batch)
    assert [data for data, _ in read(right, len(sent))] == sent
    assert [data for data, _ in read(third, 1)] == [b"third"]
    third.close()


def test_more_than_one_gso_send_holds_is_split(pair: tuple[UdpSocket, UdpSocket]) -> None:
    left, right = pair
    small = [index.to_bytes(4, "big") for index in range(200)]
    large = [index.to_bytes(4, "big") + bytes(1296) for index in range(60)]
    left.send_batch([(data, right.local_address) for data in small + large])
    assert [data for data, _ in read(right, 260)] == small + large
    assert left.counters.send_calls <= 6


def test_without_segmentation_offload_packets_go_one_by_one(pair: tuple[UdpSocket, UdpSocket]) -> None:
    left, right = pair
    real = left._socket

    class NoGso:
        def sendmsg(self, *_: object) -> int:
            raise OSError(errno.EIO, "no offload")

        def __getattr__(self, name: str) -> object:
            return getattr(real, name)

    left._socket = NoGso()  # type: ignore[assignment]
    for _ in range(2):
        left.send_batch([(b"x" * 100, right.local_address)] * 3)
    assert len(read(right, 6)) == 6
    assert not left.gso
    assert left.counters.gso_disabled == 1
    assert left.counters.dropped_send_error == 0


def test_send_errors_are_counted_and_do_not_stop_the_batch(pair: tuple[UdpSocket, UdpSocket]) -> None:
    left, right = pair
    left.send_batch(
        [
            (bytes(70_000), right.local_address),
            (b"x", ("not an address", 1)),
            (b"x", ("127.0.0.1", 99_999)),
            (b"x", ("127.0.0.1", 0)),
            (b"good", right.local_address),
        ]
    )
    assert read(right, 1) == [(b"good", left.local_address)]
    assert left.counters.dropped_send_error == 4
    assert left.counters.sent_packets == 1


def test_error_queued_by_an_unreachable_peer_is_counted_only(pair: tuple[UdpSocket, UdpSocket]) -> None:
    left, right = pair
    gone = UdpSocket("127.0.0.1", 0)
    address = gone.local_address
    gone.close()
    left._socket.connect(address)
    left._socket.send(b"x")
    assert left.receive() == []
    assert left.counters.receive_errors == 1
    assert right.receive() == []


async def test_reader_delivers_batches_until_closed() -> None:
    left, right = UdpSocket("127.0.0.1", 0), UdpSocket("127.0.0.1", 0)
    arrived: asyncio.Future[list[Datagram]] = asyncio.get_running_loop().create_future()
    right.start(asyncio.get_running_loop(), arrived.set_result)
    left.send_batch([(b"one", right.local_address), (b"two", right.local_address)])
    assert [data for data, _ in await asyncio.wait_for(arrived, 5)] == [b"one", b"two"]
    right.close()
    right.close()
    assert right.fileno() == -1
    left.close()


def test_ipv6_addresses_have_two_parts() -> None:
    left, right = UdpSocket("::1", 0), UdpSocket("::1", 0)
    left.send_batch([(b"x", right.local_address)] * 3)
    assert read(right, 3) == [(b"x", left.local_address)] * 3
    assert len(left.local_address) == 2
    left.close()
    right.close()


def test_port_in_use_names_key_and_remedy(pair: tuple[UdpSocket, UdpSocket]) -> None:
    port = pair[0].local_address[1]
    with pytest.raises(
        UdpBindError, match=rf"^cannot bind UDP p2p\.port={port} on 127\.0\.0\.1: .*another `p2p\.port`$"
    ):
        UdpSocket("127.0.0.1", port, purpose="p2p.port")


def test_foreign_address_names_key_and_remedy() -> None:
    with pytest.raises(UdpBindError, match="no interface of this host has that address; set `bind_addr`"):
        UdpSocket("192.0.2.1", 0)


def test_low_port_without_rights_names_key_and_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(UdpBindError, match="ports below 1024 need root"):
        UdpSocket("127.0.0.1", 443)


def test_what_the_kernel_drops_is_known() -> None:
    left, right = UdpSocket("127.0.0.1", 0), UdpSocket("127.0.0.1", 0, buffer_bytes=4096, gro=False)
    for _ in range(100):
        left.send(bytes(1200), right.local_address)
    got = len(read(right, 100))
    assert got < 100
    assert right.kernel_drops == 100 - got
    left.close()
    right.close()


def test_buffers_are_readable(pair: tuple[UdpSocket, UdpSocket]) -> None:
    assert pair[0].receive_buffer_bytes > 100_000
    assert pair[0].send_buffer_bytes > 100_000


@pytest.mark.parametrize(
    ("host", "bad"),
    [
        ("224.0.0.1", True),
        ("255.255.255.255", True),
        ("0.0.0.0", True),
        ("ff02::1", True),
        ("::", True),
        ("junk", True),
        ("192.0.2.1", False),
        ("127.0.0.1", False),
        ("fe80::1%eth0", False),
    ],
)
def test_sources_no_honest_peer_has(host: str, bad: bool) -> None:
    assert is_bad_source(host) is bad


def test_datagram_from_port_zero_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    udp = UdpSocket("127.0.0.1", 0)
    real = udp._socket
    answers: list[tuple[bytes, list[object], int, tuple[str, int]]] = [
        (b"x", [], 0, ("192.0.2.1", 0)),
        (b"x", [], 0, ("224.0.0.1", 5)),
        (b"x", [], 0, ("192.0.2.1", 5)),
    ]

    class Forged:
        def recvmsg(self, *_: object) -> object:
            if not answers:
                raise BlockingIOError
            return answers.pop(0)

    udp._socket = Forged()  # type: ignore[assignment]
    assert udp.receive() == [(b"x", ("192.0.2.1", 5))]
    assert udp.counters.dropped_bad_source == 2
    real.close()


async def test_who_wants_small_batches_gets_them_one_after_the_other() -> None:
    left, right = UdpSocket("127.0.0.1", 0), UdpSocket("127.0.0.1", 0, gro=False)
    batches: list[int] = []
    arrived = asyncio.Event()

    def on_runs(runs: list[Run]) -> None:
        batches.append(len(runs[0][1]))
        if sum(batches) == 100:
            arrived.set()

    left.send_batch([(bytes(100), right.local_address)] * 100)
    right._asked_at = float("inf")  # as if packets came all the time
    right.start_runs(asyncio.get_running_loop(), on_runs, max_packets=32)
    await asyncio.wait_for(arrived.wait(), 5)
    assert max(batches) == 32
    left.close()
    right.close()
