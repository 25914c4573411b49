"""One TCP endpoint under the microscope: helpers that write the peer's segments and read ours."""

from collections.abc import Sequence

from ztna.proto.tcp import TcpEndpoint
from ztna.proto.tcp_segment import ACK, SYN, Segment, TcpOptions
from ztna.proto.tcp_types import (
    Connected,
    Event,
    TcpSettings,
    TcpState,
)

OURS, THEIRS = 1000, 5000
SETTINGS = TcpSettings(send_mss=100, announced_mss=1266, receive_buffer_bytes=10_000, send_buffer_bytes=10_000)


def events(endpoint: TcpEndpoint) -> list[Event]:
    found = []
    while (event := endpoint.next_event()) is not None:
        found.append(event)
    return found


def sent(endpoint: TcpEndpoint, now: float) -> list[Segment]:
    return endpoint.segments_to_send(now)


def theirs(offset: int, ack: int, flags: int = ACK, data: bytes = b"", window: int = 10_000) -> Segment:
    """A segment of the peer: `offset` and `ack` count from the two initial sequence numbers."""
    return Segment((THEIRS + offset) & 0xFFFFFFFF, (OURS + ack) & 0xFFFFFFFF, flags, window, data)


def established(
    settings: TcpSettings = SETTINGS, options: TcpOptions | None = None, window: int = 10_000
) -> TcpEndpoint:
    """A connection opened by the peer at time 0, quiet."""
    syn = Segment(THEIRS, 0, SYN, window, b"", options or TcpOptions(mss=100, sack_permitted=True))
    endpoint = TcpEndpoint.listen(settings, OURS, syn, 0.0)
    endpoint.accept(0.0)
    assert [s.flags for s in sent(endpoint, 0.0)] == [SYN | ACK]
    endpoint.segment_received(theirs(1, 1, window=window), 0.0)
    assert events(endpoint) == [Connected()]
    assert sent(endpoint, 0.0) == []
    assert endpoint.state is TcpState.ESTABLISHED
    return endpoint


def sack(blocks: Sequence[tuple[int, int]], ack: int) -> Segment:
    wire = tuple(((OURS + low) & 0xFFFFFFFF, (OURS + high) & 0xFFFFFFFF) for low, high in blocks)
    return Segment(THEIRS + 1, OURS + ack, ACK, 10_000, b"", TcpOptions(sack_blocks=wire))
