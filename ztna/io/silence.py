"""Whether UDP gets through to the relay at all, as far as a client can tell from what does not come back.

Beside each dial a STUN request goes out on a connected socket of its own, which unlike the client's is told of ICMP
errors: a host that refuses is reached, so nothing is blocked on the way. Where neither that socket nor the client's
gets a single packet for a while, UDP is blocked (or the relay's host is gone, which looks the same from here).
"""

import contextlib
import os
import socket
import struct
from collections.abc import Callable, Mapping
from typing import Final

from ztna.io.udp import Address, UdpCounters

BLOCKED_AFTER_S: Final = 5.0
"""Longer than a handshake with two retransmissions takes over a satellite, shorter than a user's patience."""

_COOKIE: Final = 0x2112A442
_CLEAR: Final[Mapping[str, str | None]] = {"blocked_by": None, "evidence": "", "advice": ""}


class Silence:
    """Args: the counters of the client's socket, and its clock."""

    def __init__(self, counters: UdpCounters, clock: Callable[[], float]) -> None:
        self._counters = counters
        self._clock = clock
        self._since: float | None = None
        self._received = 0
        self._dials = 0
        self._relay: Address | None = None
        self._probe: socket.socket | None = None
        self._heard = ""

    def dialled(self, relay: Address) -> None:
        """An attempt begins; the first in a row begins the silence."""
        if self._since is None or self._counters.received_packets != self._received:
            self._since, self._received = self._clock(), self._counters.received_packets
            self._dials, self._heard = 0, ""
        self._dials += 1
        self._relay = relay
        self._listen()
        self._ask(relay)

    def connected(self) -> None:
        """The relay answers."""
        self._since = None
        self.close()

    def close(self) -> None:
        """Close the socket; idempotent."""
        if self._probe is not None:
            self._probe.close()
            self._probe = None

    def diagnosis(self) -> Mapping[str, str | None]:
        """`blocked_by`, `evidence` and `advice` for the status page; nothing while there is nothing to say."""
        self._listen()
        if self._since is None or self._relay is None or self._counters.received_packets != self._received:
            return _CLEAR
        silent_s = self._clock() - self._since
        if self._heard or silent_s < BLOCKED_AFTER_S:
            return _CLEAR
        where = f"{self._relay[0]}:{self._relay[1]}"
        return {
            "blocked_by": "udp-blocked",
            "evidence": f"{self._dials} handshakes and STUN requests to {where} in {silent_s:.0f} s, no packet back",
            "advice": f"Let UDP out to {where} on this network or use another one; if others cannot reach the relay "
            "either, look at its host.",
        }

    def _ask(self, relay: Address) -> None:
        self.close()
        family = socket.AF_INET6 if ":" in relay[0] else socket.AF_INET
        self._probe = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        with contextlib.suppress(OSError):  # no route: then nothing comes back either
            self._probe.connect(relay)
            self._probe.send(struct.pack("!HHI12s", 1, 0, _COOKIE, os.urandom(12)))

    def _listen(self) -> None:
        """Take what came to the probing socket: an answer, or the word of an ICMP error."""
        if self._probe is None:
            return
        try:
            self._probe.recv(2048)
        except BlockingIOError:
            return
        except ConnectionRefusedError:
            self._heard = "refused"
        except OSError:
            return
        else:
            self._heard = "answered"
