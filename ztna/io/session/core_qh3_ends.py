"""Ends of streams that come apart from data, held back until what went before them has arrived.

The native core (qh3 2.1) takes a stream for done once its data is acknowledged. If a FIN that was sent alone is lost
while data before it still is under way, it is never sent again: the peer has all the data and waits for the end for
ever. A FIN together with data, or after data that has arrived, is sent again as RFC 9000 s13.3 has it.
"""

import math
from dataclasses import dataclass
from typing import Any, Final

ROUND_TRIPS: Final = 2
ACK_DELAY_S: Final = 0.03
"""The peer may hold an acknowledgement for 25 ms (RFC 9000 s18.2)."""
PATIENCE_S: Final = 2.0
"""Where other streams lose packets all the time: by then what this one sent has long been sent again."""
DEFAULT_RTT_S: Final = 0.1


@dataclass(slots=True)
class _End:
    since: float
    lost: int
    until: float


class LoneEnds:
    """At most one entry per stream that ends; `ready` gives each stream once."""

    def __init__(self) -> None:
        self._held: dict[int, _End] = {}

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, stream_id: int, core: Any, now: float) -> bool:
        """Whether the FIN has to wait: nothing that it could go with is unsent, and something is under way."""
        if core.bytes_in_flight == 0 or core.get_send_buffer_size(stream_id):
            return False
        self._held[stream_id] = _End(now, core.loss_total, now + PATIENCE_S)
        return True

    def ready(self, core: Any, now: float) -> list[int]:
        """Streams whose data is acknowledged: nothing is under way, or nothing got lost for long enough."""
        settled = core.bytes_in_flight == 0
        found = []
        for stream_id, end in self._held.items():
            if not settled and core.loss_total != end.lost:
                end.lost, end.since = core.loss_total, now
            quiet = now >= end.since + _wait_s(core) or now >= end.until
            if settled or (quiet and not core.pto_count):
                found.append(stream_id)
        for stream_id in found:
            del self._held[stream_id]
        return found

    def drop(self, stream_id: int) -> None:
        """The stream was abandoned."""
        self._held.pop(stream_id, None)

    def get_timer(self, core: Any) -> float:
        """When `ready` is to be asked, beside after each packet; not while probes go unanswered."""
        if not self._held or core.pto_count:
            return math.inf
        return min(min(end.since + _wait_s(core), end.until) for end in self._held.values())


def _wait_s(core: Any) -> float:
    return ROUND_TRIPS * (core.smoothed_rtt or DEFAULT_RTT_S) + ACK_DELAY_S
