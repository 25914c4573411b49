"""Ends of streams that come apart from data, held back until what went before them has arrived.

The native core (qh3 2.1) takes a stream for done once its data is acknowledged. If a FIN that was sent alone is lost
while data before it still is under way, it is never sent again: the peer has all the data and waits for the end for
ever. A FIN together with data, or after data that has arrived, is sent again as RFC 9000 s13.3 has it.
"""

import math
from dataclasses import dataclass
from typing import Any, Final

ACK_DELAY_S: Final = 0.03
"""The peer may hold an acknowledgement for 25 ms (RFC 9000 s18.2)."""
PATIENCE_S, PATIENCE_RTTS = 2.0, 8
"""Where other streams lose packets all the time: by then what this one sent has long been sent again."""
LOOK_S: Final = 0.002
DEFAULT_RTT_S: Final = 0.1


@dataclass(slots=True)
class _End:
    """Flow: `mark`, the last packet sent before -> `probe`, one after it -> acknowledged -> long enough without a loss.

    A loss begins it anew, once there was time to send again what was lost.
    """

    since: float
    until: float
    lost: int
    mark: int | None
    probe: int | None = None
    acknowledged_at: float = math.inf


class LoneEnds:
    """At most one entry per stream that ends; `ready` gives each stream once."""

    def __init__(self) -> None:
        self._held: dict[int, _End] = {}
        self._look_at = 0.0

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, stream_id: int, core: Any, now: float) -> bool:
        """Whether the FIN has to wait: nothing that it could go with is unsent, and something is under way."""
        if core.bytes_in_flight == 0 or core.get_send_buffer_size(stream_id):
            return False
        until = now + max(PATIENCE_S, PATIENCE_RTTS * _rtt_s(core))
        self._held[stream_id] = _End(now, until, core.loss_total, max(_outstanding(core), default=0))
        self._look_at = now
        return True

    def ready(self, core: Any, now: float) -> list[int]:
        """Streams whose data is acknowledged. To be asked when all that may be sent was sent."""
        if core.bytes_in_flight == 0:
            found = list(self._held)
            self._held.clear()
            return found
        if now < self._look_at or core.pto_count:
            return []
        self._look_at = now + max(LOOK_S, _rtt_s(core) / 4)
        outstanding = _outstanding(core)
        found = [stream_id for stream_id, end in self._held.items() if _arrived(end, core, outstanding, now)]
        for stream_id in found:
            del self._held[stream_id]
        return found

    def drop(self, stream_id: int) -> None:
        """The stream was abandoned."""
        self._held.pop(stream_id, None)

    def get_timer(self, core: Any) -> float:
        """When `ready` is to be asked, beside after each packet; not while probes go unanswered."""
        return self._look_at if self._held and not core.pto_count else math.inf


def _arrived(end: _End, core: Any, outstanding: list[int], now: float) -> bool:
    if core.loss_total != end.lost:
        end.lost, end.since = core.loss_total, now
        end.mark, end.probe, end.acknowledged_at = None, None, math.inf
    elif end.mark is None:
        if now >= end.since + _rtt_s(core):
            end.mark = max(outstanding, default=0)
    elif end.probe is None:
        end.probe = min((number for number in outstanding if number > end.mark), default=None)
    elif end.acknowledged_at == math.inf and end.probe not in outstanding:
        end.acknowledged_at = now
    # RFC 9002 s6.1.2: what is older than an acknowledged packet is declared lost after 9/8 of a round trip.
    return now >= min(end.acknowledged_at + 2 * _rtt_s(core) + ACK_DELAY_S, end.until)


def _outstanding(core: Any) -> list[int]:
    return [number for number, _, _ in core.outstanding_application_packets]


def _rtt_s(core: Any) -> float:
    return core.smoothed_rtt or DEFAULT_RTT_S
