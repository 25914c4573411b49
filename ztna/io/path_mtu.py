"""Path MTU towards a relay: padded STUN requests that may not be fragmented (RFC 8899 section 5.3).

The relay answers each request that arrives with a few bytes, so this measures the direction towards it.
"""

import asyncio
import secrets
import socket
import struct
from typing import Final

from ztna.io.resolve import address_family
from ztna.io.udp import Address

IP_MTU_DISCOVER: Final = 10
IPV6_MTU_DISCOVER: Final = 23
PMTUDISC_PROBE: Final = 3
SMALLEST: Final = 576
LARGEST: Final = 1500
PADDING_TYPE: Final = 0x0026
STUN_HEADER_BYTES: Final = 20
ANSWER_S: Final = 0.3
TRIES: Final = 3


async def measure_path_mtu(relay: Address) -> int | None:
    """The largest IP packet in bytes, up to 1500, that reaches the relay unfragmented; None if not even 576 do."""
    is_v6 = ":" in relay[0]
    with socket.socket(address_family(relay[0]), socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        level, option = (socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER) if is_v6 else (socket.IPPROTO_IP, IP_MTU_DISCOVER)
        # PROBE sets DF and ignores what the kernel believes of the path; only answers count here.
        sock.setsockopt(level, option, PMTUDISC_PROBE)
        sock.connect(relay)
        overhead = 48 if is_v6 else 28
        if await _passes(sock, LARGEST - overhead):
            return LARGEST
        if not await _passes(sock, SMALLEST - overhead):
            return None
        passes, fails = SMALLEST, LARGEST
        # STUN messages are multiples of four bytes.
        while fails - passes > 4:
            middle = (passes + fails) // 8 * 4
            if await _passes(sock, middle - overhead):
                passes = middle
            else:
                fails = middle
        return passes


async def _passes(sock: socket.socket, payload_bytes: int) -> bool:
    """Whether a request of this size is answered."""
    loop = asyncio.get_running_loop()
    padding = payload_bytes - STUN_HEADER_BYTES - 4
    for _ in range(TRIES):
        transaction = secrets.token_bytes(12)
        head = struct.pack("!HHI", 1, padding + 4, 0x2112A442) + transaction
        try:
            sock.send(head + struct.pack("!HH", PADDING_TYPE, padding) + bytes(padding))
        except OSError:
            # EMSGSIZE: larger than the interface's own MTU.
            return False
        try:
            async with asyncio.timeout(ANSWER_S):
                while True:
                    answer = await loop.sock_recv(sock, 2048)
                    if answer[8:20] == transaction:
                        return True
        except (TimeoutError, OSError):
            continue
    return False
