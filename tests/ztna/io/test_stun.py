"""The STUN responder on loopback: our own client, the RFC 3489 client of pystun3, coturn's clients, and abuse."""

import asyncio
import contextlib
import shutil
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable

import pytest
import stun as pystun3
from aioice import stun

from ztna.io.stun import StunResponder, looks_like_stun
from ztna.io.stun_client import StunClient
from ztna.io.udp import Address, Datagram, UdpBindError, UdpSocket
from ztna.proto.natclass import TIMED_OUT, NatClassifier, Outcome

PRIMARY, ALTERNATE = "127.0.0.1", "127.0.0.2"


class Server:
    """A primary socket with the responder as its only reader."""

    def __init__(self, bind: str, alternate: str | None, rate_per_s: float = 20, burst: float = 40) -> None:
        self.now: Callable[[], float] = time.monotonic
        self.udp = UdpSocket(bind, 0)
        self.responder = StunResponder(
            self.udp,
            alternate_port=0,
            alternate_addr=alternate,
            clock=lambda: self.now(),
            rate_per_s=rate_per_s,
            burst=burst,
        )
        self.not_stun: list[bytes] = []
        loop = asyncio.get_running_loop()
        self.udp.start(loop, self._batch)
        self.responder.start(loop)

    @property
    def address(self) -> Address:
        host, port = self.udp.local_address
        return (PRIMARY if host == "0.0.0.0" else host), port

    def _batch(self, batch: list[Datagram]) -> None:
        for data, source in batch:
            if not self.responder.handle(data, source):
                self.not_stun.append(data)

    def close(self) -> None:
        self.responder.close()
        self.udp.close()


@contextlib.asynccontextmanager
async def serving(bind: str = PRIMARY, alternate: str | None = ALTERNATE, **options: float) -> AsyncIterator[Server]:
    server = Server(bind, alternate, **options)
    try:
        yield server
    finally:
        server.close()


async def ask(data: bytes, to: Address, *, source: str = PRIMARY, wait_s: float = 2.0) -> tuple[bytes, Address] | None:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.bind((source, 0))
        await loop.sock_sendto(sock, data, to)
        try:
            return await asyncio.wait_for(loop.sock_recvfrom(sock, 2048), wait_s)
        except TimeoutError:
            return None


def request(attributes: bytes = b"", cookie: bytes = b"\x21\x12\xa4\x42", kind: int = 1) -> bytes:
    return struct.pack("!HH", kind, len(attributes)) + cookie + b"123456789abc" + attributes


async def test_client_learns_its_own_address_and_the_other_corner() -> None:
    async with serving() as server:
        client = StunClient((PRIMARY, 0))
        outcome = await client.binding(server.address)
        other = (ALTERNATE, server.responder.corners[1, 1][1])
        assert outcome == Outcome(True, client.local_address, other)
        client.close()


@pytest.mark.parametrize("bind", [PRIMARY, "0.0.0.0"])
async def test_change_request_is_answered_from_the_asked_corner(bind: str) -> None:
    async with serving(bind) as server:
        corners = server.responder.corners
        for flags, corner in ((0, (0, 0)), (2, (0, 1)), (4, (1, 0)), (6, (1, 1))):
            attributes = struct.pack("!HHI", 3, 4, flags)
            answer = await ask(request(attributes), server.address)
            assert answer is not None
            expected = (ALTERNATE if corner[0] else PRIMARY, corners[corner][1])
            assert answer[1] == expected
            assert stun.parse_message(answer[0]).attributes["RESPONSE-ORIGIN"] == expected


async def test_corners_flip_relative_to_where_the_request_arrived() -> None:
    async with serving() as server:
        corners = server.responder.corners
        answer = await ask(request(struct.pack("!HHI", 3, 4, 2)), corners[1, 1])
        assert answer is not None
        assert answer[1] == corners[1, 0]
        assert stun.parse_message(answer[0]).attributes["OTHER-ADDRESS"] == corners[0, 0]


async def test_one_address_offers_its_other_port_and_refuses_to_change_address() -> None:
    async with serving(alternate=None) as server:
        alternate_port = server.responder.corners[0, 1][1]
        client = StunClient((PRIMARY, 0))
        assert (await client.binding(server.address)).other_address == (PRIMARY, alternate_port)
        assert (await client.binding(server.address, change=(False, True))).answered
        assert await client.binding(server.address, change=(True, True), timeout_s=0.5) == TIMED_OUT
        client.close()
        answer = await ask(request(struct.pack("!HHI", 3, 4, 6)), server.address)
        assert answer is not None
        error = stun.parse_message(answer[0])
        assert (error.message_class, error.error_code) == (stun.Class.ERROR, 420)
        assert struct.pack("!HHH", 0x000A, 2, 3) in answer[0]


async def test_without_alternate_port_clients_learn_their_own_address_only() -> None:
    udp = UdpSocket(PRIMARY, 0)
    responder = StunResponder(udp, alternate_port=None, clock=time.monotonic)
    responder.start(asyncio.get_running_loop())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind((PRIMARY, 0))
        client.settimeout(5)
        assert responder.handle(request(), client.getsockname())
        attributes = stun.parse_message(await asyncio.to_thread(client.recv, 2048)).attributes
        assert attributes["XOR-MAPPED-ADDRESS"] == client.getsockname()
    assert "OTHER-ADDRESS" not in attributes
    udp.close()


async def test_whole_classification_over_loopback_is_public() -> None:
    async with serving() as server:
        mapping, filtering = StunClient((PRIMARY, 0)), StunClient((PRIMARY, 0))
        classifier = NatClassifier(local=mapping.local_address, server=server.address)
        while (test := classifier.next_test()) is not None:
            client = filtering if test.on_filtering_socket else mapping
            classifier.record(test, await client.binding(classifier.target(test), change=test.change_request))
        mapping.close()
        filtering.close()
        assert classifier.classification().alias == "public"


async def test_external_ip_is_what_clients_are_told() -> None:
    udp = UdpSocket(PRIMARY, 0)
    responder = StunResponder(udp, alternate_port=0, external_ip="203.0.113.7", clock=time.monotonic)

    def on_batch(batch: list[Datagram]) -> None:
        for data, source in batch:
            responder.handle(data, source)

    udp.start(asyncio.get_running_loop(), on_batch)
    responder.start(asyncio.get_running_loop())
    answer = await ask(request(), udp.local_address)
    assert answer is not None
    attributes = stun.parse_message(answer[0]).attributes
    assert attributes["RESPONSE-ORIGIN"] == ("203.0.113.7", udp.local_address[1])
    assert attributes["OTHER-ADDRESS"][0] == "203.0.113.7"
    responder.close()
    udp.close()


async def test_pystun3_sees_open_internet() -> None:
    async with serving() as server:
        host, port = server.address

        def classify() -> tuple[str, str, int]:
            result: tuple[str, str, int] = pystun3.get_ip_info(PRIMARY, 0, host, port)
            return result

        kind, ip, _ = await asyncio.to_thread(classify)
        assert (kind, ip) == ("Open Internet", PRIMARY)
        assert server.responder.counters.answered == 2


async def run_tool(*argv: str) -> str:
    path = shutil.which(argv[0])
    assert path is not None, f"{argv[0]} is missing: apt-get install coturn"
    process = await asyncio.create_subprocess_exec(
        path, *argv[1:], stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await asyncio.wait_for(process.communicate(), 30)
    return output.decode()


async def test_turnutils_stunclient_reads_its_address() -> None:
    async with serving() as server:
        host, port = server.address
        output = await run_tool("turnutils_stunclient", "-p", str(port), host)
        assert output.count(f"UDP reflexive addr: {PRIMARY}:") == 3


async def test_turnutils_natdiscovery_reads_mapping_and_filtering() -> None:
    async with serving() as server:
        host, port = server.address
        output = await run_tool("turnutils_natdiscovery", "-m", "-f", "-L", PRIMARY, "-p", str(port), host)
        assert "Endpoint Independent Filtering" in output


async def test_classic_request_gets_classic_answer_and_silence_for_a_missing_corner() -> None:
    async with serving(alternate=None) as server:
        classic = request(cookie=b"\x01\x02\x03\x04")
        answer = await ask(classic, server.address)
        assert answer is not None
        assert answer[0][4:20] == classic[4:20]
        assert answer[0][20:24] == b"\x00\x01\x00\x08"
        change_both = request(struct.pack("!HHI", 3, 4, 6), cookie=b"\x01\x02\x03\x04")
        assert await ask(change_both, server.address, wait_s=0.2) is None
        assert server.responder.counters.dropped_no_such_corner == 1


async def test_answers_never_exceed_three_times_the_request() -> None:
    async with serving() as server:
        for data in (request(), request(cookie=b"abcd"), request(struct.pack("!HHI", 3, 4, 6))):
            answer = await ask(data, server.address)
            assert answer is not None
            assert len(answer[0]) <= 3 * len(data)


async def test_answers_over_ipv6_leave_out_what_would_amplify() -> None:
    udp = UdpSocket("::1", 0)
    responder = StunResponder(udp, alternate_port=0, clock=time.monotonic)
    responder.start(asyncio.get_running_loop())
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
        client.bind(("::1", 0))
        client.settimeout(5)
        for padding, names in ((0, ["XOR-MAPPED-ADDRESS"]), (4, ["XOR-MAPPED-ADDRESS", "OTHER-ADDRESS"])):
            data = request(struct.pack("!HH", 0x8022, padding) + bytes(padding) if padding else b"")
            assert responder.handle(data, client.getsockname()[:2])
            answer = await asyncio.to_thread(client.recv, 2048)
            assert len(answer) <= 3 * len(data)
            assert list(stun.parse_message(answer).attributes) == names
    responder.close()
    udp.close()


async def test_unknown_required_attribute_is_refused_by_name() -> None:
    async with serving() as server:
        answer = await ask(request(struct.pack("!HHI", 0x0021, 4, 0)), server.address)
        assert answer is not None
        assert stun.parse_message(answer[0]).error_code == 420
        assert answer[0].endswith(struct.pack("!HHHxx", 0x000A, 2, 0x0021))
        assert answer[1] == server.address


async def test_response_port_moves_the_answer_to_another_port_of_the_same_host() -> None:
    async with serving() as server:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.setblocking(False)
            other.bind((PRIMARY, 0))
            port = other.getsockname()[1]
            asking = asyncio.create_task(
                ask(request(struct.pack("!HHHxx", 0x0027, 4, port)), server.address, wait_s=0.1)
            )
            answer, source = await asyncio.wait_for(loop.sock_recvfrom(other, 2048), 2)
            assert await asking is None
        assert source == server.address
        assert stun.parse_message(answer).attributes["XOR-MAPPED-ADDRESS"][1] != port


async def test_fingerprint_is_returned_when_asked() -> None:
    async with serving() as server:
        message = stun.Message(stun.Method.BINDING, stun.Class.REQUEST)
        message.add_fingerprint()
        answer = await ask(bytes(message), server.address)
        assert answer is not None
        assert "FINGERPRINT" in stun.parse_message(answer[0]).attributes


@pytest.mark.parametrize(
    ("data", "counter"),
    [
        (request(kind=0x0101), "dropped_not_request"),
        (request(kind=0x0011), "dropped_not_request"),
        (request(kind=0x0003), "dropped_not_request"),
        (request(struct.pack("!HHI", 3, 400, 0)), "dropped_malformed"),
        (request(struct.pack("!HHHxx", 3, 2, 0)), "dropped_malformed"),
        (request(struct.pack("!HHI", 0x8028, 4, 12345)), "dropped_malformed"),
        (request(struct.pack("!HH", 0x8022, 2040) + bytes(2040)), "dropped_malformed"),
    ],
)
async def test_what_is_no_request_gets_no_answer(data: bytes, counter: str) -> None:
    async with serving() as server:
        assert await ask(data, server.address, wait_s=0.1) is None
        assert getattr(server.responder.counters, counter) == 1
        assert server.responder.counters.answered == 0


@pytest.mark.parametrize("data", [b"", b"\x00", request()[:19], request() + b"\x00", b"\x40" + request()[1:]])
async def test_what_is_not_stun_is_left_to_quic(data: bytes) -> None:
    assert not looks_like_stun(data)
    async with serving() as server:
        assert not server.responder.handle(data, (PRIMARY, 9))


async def test_each_source_has_its_own_bucket() -> None:
    async with serving(rate_per_s=1, burst=3) as server:
        server.now = lambda: 100.0
        answers = [await ask(request(), server.address, wait_s=0.1) for _ in range(5)]
        assert [answer is not None for answer in answers] == [True, True, True, False, False]
        assert server.responder.counters.dropped_rate == 2
        assert await ask(request(), server.address, source="127.0.0.9") is not None


async def test_forged_sources_are_dropped() -> None:
    async with serving() as server:
        for source in (("255.255.255.255", 5), ("224.0.0.1", 5), ("0.0.0.0", 5), (PRIMARY, 0)):
            assert server.responder.handle(request(), source)
        assert server.responder.counters.dropped_bad_source == 4


async def test_taken_alternate_port_names_the_key() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind((PRIMARY, 0))
        udp = UdpSocket(PRIMARY, 0)
        responder = StunResponder(udp, alternate_port=holder.getsockname()[1], clock=time.monotonic)
        with pytest.raises(UdpBindError, match="alternate_port"):
            responder.start(asyncio.get_running_loop())
        udp.close()


async def test_after_start_no_other_socket_can_share_the_ports() -> None:
    async with serving("0.0.0.0") as server:
        for address in server.responder.corners.values():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as thief:
                thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                with pytest.raises(OSError, match="in use"):
                    thief.bind((PRIMARY, address[1]))


async def test_client_gives_up_at_its_time_out() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((PRIMARY, 0))
        client = StunClient((PRIMARY, 0))
        assert await client.binding(silent.getsockname(), timeout_s=0.1, retransmit_s=0.02) == TIMED_OUT
        client.close()
        silent.setblocking(False)
        copies = {silent.recv(2048), silent.recv(2048)}
        assert len(copies) == 1


async def test_client_ignores_answers_to_other_transactions() -> None:
    client = StunClient((PRIMARY, 0))
    wrong = stun.Message(stun.Method.BINDING, stun.Class.RESPONSE, b"x" * 12, {"XOR-MAPPED-ADDRESS": ("1.2.3.4", 5)})
    client.answer_received(bytes(wrong))
    client.answer_received(b"junk")
    client.close()
