"""STUN client: Binding transactions with retransmission (RFC 8489 section 6.2.1), as `ztna doctor` needs them."""

import asyncio
import errno
import secrets
import socket
import struct
from typing import Final

from aioice import stun

from ztna.io.stun import BATCH_READS, CHANGE_ADDRESS, CHANGE_PORT, looks_like_stun
from ztna.io.udp import Address, bind_error
from ztna.proto.natclass import TIMED_OUT, Outcome

SOFTWARE: Final = "ztna doctor"
MAX_ANSWER_BYTES: Final = 2048
MAX_REMEMBERED: Final = 16


class StunClient:
    """One UDP socket for Binding transactions with any server.

    Args:
        local: address and port to bind; port 0 asks for an ephemeral one.
        connect_to: talk to this server only; then the kernel tells when nothing listens there (`refused`).

    Raises:
        UdpBindError: `local` cannot be bound.
    """

    def __init__(self, local: Address = ("0.0.0.0", 0), *, connect_to: Address | None = None) -> None:
        self.refused = False
        self._connected = connect_to is not None
        self._loop = asyncio.get_running_loop()
        self._pending: dict[bytes, asyncio.Future[Outcome]] = {}
        family = socket.AF_INET6 if ":" in local[0] else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            self._socket.bind(local)
            if connect_to is not None:
                self._socket.connect(connect_to)
        except OSError as exc:
            self._socket.close()
            raise bind_error(exc, local[0], local[1], "port") from exc
        self._loop.add_reader(self._socket.fileno(), self._readable)

    @property
    def local_address(self) -> Address:
        """The bound address and port."""
        name = self._socket.getsockname()
        return name[0], name[1]

    async def binding(
        self,
        server: Address,
        *,
        change: tuple[bool, bool] = (False, False),
        timeout_s: float = 2.0,
        retransmit_s: float = 0.25,
    ) -> Outcome:
        """One transaction: the same request repeated until an answer or the time-out.

        Args:
            server: where the request goes.
            change: (address, port) the answer should come from another of, by CHANGE-REQUEST.
            timeout_s: when to give up; the result is then `TIMED_OUT`.
            retransmit_s: first retransmission interval, doubled each time.
        """
        request = stun.Message(stun.Method.BINDING, stun.Class.REQUEST, secrets.token_bytes(12))
        # The answer may be at most three times the request; this asks for room for three IPv6 addresses.
        request.attributes["SOFTWARE"] = SOFTWARE
        if any(change):
            request.attributes["CHANGE-REQUEST"] = CHANGE_ADDRESS * change[0] + CHANGE_PORT * change[1]
        loop = self._loop
        future: asyncio.Future[Outcome] = loop.create_future()
        self._pending[request.transaction_id] = future
        deadline, interval = loop.time() + timeout_s, retransmit_s
        try:
            while (left := deadline - loop.time()) > 0:
                self._send(bytes(request), server)
                await asyncio.wait([future], timeout=min(interval, left))
                if future.done():
                    return future.result()
                if self.refused:
                    break
                interval *= 2
            return TIMED_OUT
        finally:
            del self._pending[request.transaction_id]

    def close(self) -> None:
        """Close the socket; idempotent."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()

    def _send(self, request: bytes, server: Address) -> None:
        try:
            if self._connected:
                self._socket.send(request)
            else:
                self._socket.sendto(request, server)
        except OSError as exc:
            # Most often the ICMP error of an earlier request; the time-out decides.
            self.refused |= exc.errno == errno.ECONNREFUSED

    def _readable(self) -> None:
        for _ in range(BATCH_READS):
            try:
                data = self._socket.recv(MAX_ANSWER_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as exc:
                # An ICMP error of an earlier request; the time-out decides.
                self.refused |= exc.errno == errno.ECONNREFUSED
                continue
            self.answer_received(data)

    def answer_received(self, data: bytes) -> None:
        """Match an answer to its transaction; anything else is not for us."""
        future = self._pending.get(data[8:20])
        if future is None or future.done() or not looks_like_stun(data):
            return
        try:
            answer = stun.parse_message(data)
        except (ValueError, struct.error, IndexError):
            return
        if answer.message_class is not stun.Class.RESPONSE:
            # An error answer (420) says the server cannot do what was asked; that is no answer from the other corner.
            future.set_result(TIMED_OUT)
            return
        mapped = answer.attributes.get("XOR-MAPPED-ADDRESS") or answer.attributes.get("MAPPED-ADDRESS")
        other = answer.attributes.get("OTHER-ADDRESS") or answer.attributes.get("CHANGED-ADDRESS")
        future.set_result(Outcome(True, mapped, other))


class StunRequests:
    """Binding requests of which only the answer matters; the latest few are remembered."""

    __slots__ = ("_transactions",)

    def __init__(self) -> None:
        self._transactions: set[bytes] = set()

    def request(self) -> bytes:
        """Make a request."""
        if len(self._transactions) >= MAX_REMEMBERED:
            self._transactions.clear()
        transaction = secrets.token_bytes(12)
        self._transactions.add(transaction)
        return bytes(stun.Message(stun.Method.BINDING, stun.Class.REQUEST, transaction))

    def answered(self, data: bytes) -> bool:
        """Say whether a STUN message answers one of them; each is answered once."""
        transaction = data[8:20]
        known = transaction in self._transactions
        self._transactions.discard(transaction)
        return known

    def clear(self) -> None:
        """Wait for none of them any more."""
        self._transactions.clear()
