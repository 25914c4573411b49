"""What arriving segments do to a TCP connection: data, acknowledgments, attacks (RFC 9293 s3.10.7, RFC 5961)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ztna.proto.tcp_bed import OURS, SETTINGS, THEIRS, established, events, sack, sent, theirs
from ztna.proto.tcp import TcpEndpoint
from ztna.proto.tcp_segment import ACK, FIN, RST, SYN, Segment, TcpOptions
from ztna.proto.tcp_types import (
    DataReceived,
    EndOfStream,
    Reset,
    ResetReason,
    TcpSettings,
    TcpState,
)


def test_data_out_of_order_is_put_in_order_and_reported() -> None:
    endpoint = established()
    endpoint.segment_received(theirs(4, 1, data=b"def"), 0.1)
    assert events(endpoint) == []
    (duplicate,) = sent(endpoint, 0.1)
    assert duplicate.ack == THEIRS + 1
    assert duplicate.options.sack_blocks == ((THEIRS + 4, THEIRS + 7),)
    endpoint.segment_received(theirs(1, 1, data=b"abc"), 0.2)
    assert events(endpoint) == [DataReceived(b"abcdef")]
    (filled,) = sent(endpoint, 0.2)
    assert filled.ack == THEIRS + 7
    assert filled.options.sack_blocks == ()


def test_each_stray_segment_causes_a_duplicate_for_a_peer_without_sack() -> None:
    endpoint = established(options=TcpOptions(mss=100))
    for offset in (11, 21, 31):
        endpoint.segment_received(theirs(offset, 1, data=bytes(10)), 0.1)
    assert [s.ack for s in sent(endpoint, 0.1)] == [THEIRS + 1] * 3


def test_what_was_received_already_is_acknowledged_and_not_delivered_again() -> None:
    endpoint = established()
    endpoint.segment_received(theirs(1, 1, data=b"abc"), 0.1)
    assert events(endpoint) == [DataReceived(b"abc")]
    sent(endpoint, 0.1)
    endpoint.segment_received(theirs(1, 1, data=b"abc"), 0.2)
    assert events(endpoint) == []
    assert [s.ack for s in sent(endpoint, 0.2)] == [THEIRS + 4]
    # A retransmission that holds more than before delivers the rest.
    endpoint.segment_received(theirs(1, 1, data=b"abcde"), 0.3)
    assert events(endpoint) == [DataReceived(b"de")]


def test_fin_with_data_delivers_the_data_first() -> None:
    endpoint = established()
    endpoint.segment_received(theirs(1, 1, ACK | FIN, b"last"), 0.1)
    assert events(endpoint) == [DataReceived(b"last"), EndOfStream()]
    assert endpoint.state is TcpState.CLOSE_WAIT
    assert [s.ack for s in sent(endpoint, 0.1)] == [THEIRS + 6]


def test_fin_ahead_of_missing_data_waits_for_it() -> None:
    endpoint = established()
    endpoint.segment_received(theirs(4, 1, ACK | FIN, b"def"), 0.1)
    assert events(endpoint) == []
    endpoint.segment_received(theirs(1, 1, data=b"abc"), 0.2)
    assert events(endpoint) == [DataReceived(b"abcdef"), EndOfStream()]


def test_data_beyond_a_fin_is_not_delivered() -> None:
    endpoint = established()
    endpoint.segment_received(theirs(1, 1, ACK | FIN, b"end"), 0.1)
    endpoint.segment_received(theirs(5, 1, data=b"more"), 0.2)
    assert events(endpoint) == [DataReceived(b"end"), EndOfStream()]


def test_window_closes_with_what_the_application_leaves_and_opens_again() -> None:
    endpoint = established()
    for at in range(0, 10_000, 100):
        endpoint.segment_received(theirs(1 + at, 1, data=bytes(100)), 0.1)
    assert sent(endpoint, 0.1)[-1].window == 0
    endpoint.segment_received(theirs(10_001, 1, data=b"probe"), 0.2)
    assert sum(len(e.data) for e in events(endpoint) if isinstance(e, DataReceived)) == 10_000
    assert [(s.ack, s.window) for s in sent(endpoint, 0.2)] == [(THEIRS + 10_001, 0)]
    # A small step is kept back (RFC 9293 s3.8.6.2.2), a large one is told unasked.
    endpoint.consumed(500)
    assert sent(endpoint, 0.3) == []
    endpoint.consumed(4500)
    assert [(s.ack, s.window) for s in sent(endpoint, 0.3)] == [(THEIRS + 10_001, 5000)]


def test_acknowledgments_are_delayed_but_not_for_long() -> None:
    endpoint = established()
    for at in range(20):
        endpoint.segment_received(theirs(1 + at, 1, data=b"x"), 0.1)
        sent(endpoint, 0.1)
    endpoint.segment_received(theirs(21, 1, data=b"x"), 1.0)
    assert sent(endpoint, 1.0) == []
    due = endpoint.get_timer()
    assert due == 1.0 + SETTINGS.delayed_ack_s
    endpoint.handle_timer(due)
    assert [s.ack for s in sent(endpoint, due)] == [THEIRS + 22]
    # Data going the other way carries it along.
    endpoint.segment_received(theirs(22, 1, data=b"x"), 2.0)
    endpoint.write(b"reply")
    assert [(s.ack, bytes(s.payload)) for s in sent(endpoint, 2.0)] == [(THEIRS + 23, b"reply")]
    assert sent(endpoint, 2.5) == []


def test_stray_pieces_are_bounded_in_number() -> None:
    endpoint = established(TcpSettings(send_mss=100, announced_mss=100, receive_buffer_bytes=60_000))
    for at in range(2, 20_000, 2):
        endpoint.segment_received(theirs(1 + at, 1, data=b"x"), 0.1)
    assert len(endpoint._receive._pieces) <= 1024
    endpoint.segment_received(theirs(1, 1, data=bytes(20_000)), 0.2)
    assert sum(len(e.data) for e in events(endpoint) if isinstance(e, DataReceived)) == 20_000
    assert len(endpoint._receive._pieces) == 0


def test_reset_counts_only_at_exactly_the_expected_number() -> None:
    endpoint = established()
    endpoint.segment_received(theirs(500, 1, RST), 0.1)
    assert [(s.seq, s.ack, s.flags) for s in sent(endpoint, 0.1)] == [(OURS + 1, THEIRS + 1, ACK)]
    # Beyond the window not even that (RFC 9293 s3.10.7.4).
    endpoint.segment_received(theirs(20_000, 1, RST), 0.2)
    endpoint.segment_received(theirs(-5, 1, RST), 0.3)
    assert sent(endpoint, 0.3) == []
    assert events(endpoint) == []
    endpoint.segment_received(theirs(1, 1, RST), 0.4)
    assert events(endpoint) == [Reset(ResetReason.RESET_BY_PEER)]
    assert sent(endpoint, 0.4) == []


def test_syn_in_a_connection_is_challenged() -> None:
    endpoint = established()
    endpoint.segment_received(theirs(7, 0, SYN), 0.1)
    assert [(s.ack, s.flags) for s in sent(endpoint, 0.1)] == [(THEIRS + 1, ACK)]
    assert endpoint.state is TcpState.ESTABLISHED


@pytest.mark.parametrize("ack", [5000, -50_000])
def test_acknowledgment_of_what_was_not_sent_is_challenged_and_its_data_dropped(ack: int) -> None:
    endpoint = established()
    endpoint.segment_received(theirs(1, ack, data=b"evil"), 0.1)
    assert events(endpoint) == []
    assert [s.ack for s in sent(endpoint, 0.1)] == [THEIRS + 1]


def test_challenges_are_rationed() -> None:
    endpoint = established()
    answers = 0
    for step in range(1000):
        endpoint.segment_received(theirs(500, 1, RST), 0.1 + step * 0.001)
        answers += len(sent(endpoint, 0.1 + step * 0.001))
    assert answers <= 21
    assert endpoint.dropped == 1000


def test_segments_without_acknowledgment_are_dropped() -> None:
    endpoint = established()
    endpoint.segment_received(theirs(1, 1, 0, b"data"), 0.1)
    assert events(endpoint) == []


SEGMENTS = st.builds(
    theirs,
    st.integers(-50, 2000) | st.integers(-(2**31), 2**31),
    st.integers(-50, 400) | st.integers(-(2**31), 2**31),
    st.integers(0, 63),
    st.binary(max_size=20),
    st.sampled_from([0, 1, 100, 65535]),
) | st.builds(sack, st.lists(st.tuples(st.integers(-10, 400), st.integers(-10, 400)), max_size=3), st.integers(0, 301))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["active", "passive", "held", "open"]), st.lists(SEGMENTS, max_size=25), st.booleans())
def test_no_sequence_of_segments_raises_or_overflows(start: str, segments: list[Segment], close: bool) -> None:
    if start == "active":
        endpoint = TcpEndpoint.connect(SETTINGS, OURS, 0.0)
    elif start == "open":
        endpoint = established()
    else:
        endpoint = TcpEndpoint.listen(SETTINGS, OURS, Segment(THEIRS, 0, SYN, 1000), 0.0)
        if start == "passive":
            endpoint.accept(0.0)
    endpoint.write(bytes(300))
    if close:
        endpoint.close_write()
    now = 0.0
    for segment in segments:
        now += 0.01
        endpoint.segment_received(segment, now)
        assert len(sent(endpoint, now)) < 80
        events(endpoint)
        due = endpoint.get_timer()
        if due is not None and due < now + 0.3:
            endpoint.handle_timer(due)
            now = max(now, due)
    assert len(endpoint._receive._pieces) <= 1024
    assert endpoint._receive.unconsumed <= SETTINGS.receive_buffer_bytes
    assert endpoint._send._flight.bytes >= 0
