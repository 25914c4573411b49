"""The TCP endpoint, segment by segment: what arrives, what must go out, in which state that leaves it (RFC 9293)."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ztna.proto.tcp import TcpEndpoint
from ztna.proto.tcp_segment import ACK, FIN, PSH, RST, SYN, Segment, TcpOptions
from ztna.proto.tcp_types import (
    Closed,
    Connected,
    DataReceived,
    EndOfStream,
    Event,
    Reset,
    ResetReason,
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


# -- opening ---------------------------------------------------------------------------------------------------------


def test_active_open() -> None:
    endpoint = TcpEndpoint.connect(SETTINGS, OURS, 0.0)
    assert endpoint.state is TcpState.SYN_SENT
    (syn,) = sent(endpoint, 0.0)
    assert syn == Segment(OURS, 0, SYN, 10_000, b"", TcpOptions(1266, 0, True))
    reply = Segment(THEIRS, OURS + 1, SYN | ACK, 2000, b"", TcpOptions(mss=1460, window_shift=3, sack_permitted=True))
    endpoint.segment_received(reply, 0.1)
    assert events(endpoint) == [Connected()]
    assert sent(endpoint, 0.1) == [Segment(OURS + 1, THEIRS + 1, ACK, 10_000)]
    endpoint.write(bytes(3000))
    # The window of a SYN is not scaled (RFC 7323 s2.2): 2000, not 16000; and the initial window is ten segments.
    assert sum(len(s.payload) for s in sent(endpoint, 0.1)) == 1000


def test_data_right_behind_the_syn_ack_is_taken() -> None:
    endpoint = TcpEndpoint.connect(SETTINGS, OURS, 0.0)
    sent(endpoint, 0.0)
    endpoint.segment_received(Segment(THEIRS, OURS + 1, SYN | ACK, 2000, b"", TcpOptions(mss=1460)), 0.1)
    endpoint.segment_received(theirs(1, 1, data=b"hello"), 0.1)
    assert events(endpoint) == [Connected(), DataReceived(b"hello")]


def test_passive_open_waits_for_the_application() -> None:
    syn = Segment(THEIRS, 0, SYN, 1000, b"", TcpOptions(mss=1460))
    endpoint = TcpEndpoint.listen(SETTINGS, OURS, syn, 0.0)
    endpoint.segment_received(syn, 1.0)
    assert sent(endpoint, 1.0) == []
    endpoint.accept(2.0)
    assert endpoint.state is TcpState.SYN_RECEIVED
    # The MSS option is sent although legacy connectors never did; neither option the peer lacks is offered.
    assert sent(endpoint, 2.0) == [Segment(OURS, THEIRS + 1, SYN | ACK, 10_000, b"", TcpOptions(1266, None, False))]


def test_passive_open_refused_by_the_application() -> None:
    endpoint = TcpEndpoint.listen(SETTINGS, OURS, Segment(THEIRS, 0, SYN, 1000), 0.0)
    endpoint.abort()
    assert sent(endpoint, 0.0) == [Segment(0, THEIRS + 1, RST | ACK, 0)]
    assert endpoint.closed


def test_held_open_is_refused_when_the_application_takes_too_long() -> None:
    endpoint = TcpEndpoint.listen(SETTINGS, OURS, Segment(THEIRS, 0, SYN, 1000), 0.0, hold_s=5.0)
    assert endpoint.get_timer() == 5.0
    endpoint.handle_timer(5.0)
    assert [s.flags for s in sent(endpoint, 5.0)] == [RST | ACK]
    assert events(endpoint) == [Reset(ResetReason.TIMED_OUT)]


def test_reset_while_held_ends_it() -> None:
    endpoint = TcpEndpoint.listen(SETTINGS, OURS, Segment(THEIRS, 0, SYN, 1000), 0.0)
    endpoint.segment_received(theirs(1, 0, RST), 0.1)
    assert events(endpoint) == [Reset(ResetReason.RESET_BY_PEER)]
    assert sent(endpoint, 0.1) == []


def test_peer_without_mss_option_gets_536() -> None:
    settings = TcpSettings(send_mss=1266, announced_mss=1266)
    endpoint = established(settings, TcpOptions(), 30_000)
    endpoint.write(bytes(5000))
    assert max(len(s.payload) for s in sent(endpoint, 0.0)) == 536


def test_repeated_syn_brings_the_syn_ack_again_at_once() -> None:
    endpoint = TcpEndpoint.listen(SETTINGS, OURS, Segment(THEIRS, 0, SYN, 1000), 0.0)
    endpoint.accept(0.0)
    (first,) = sent(endpoint, 0.0)
    endpoint.segment_received(Segment(THEIRS, 0, SYN, 1000), 0.3)
    assert sent(endpoint, 0.3) == [first]


def test_lost_syn_ack_is_sent_again_by_the_timer() -> None:
    endpoint = TcpEndpoint.listen(SETTINGS, OURS, Segment(THEIRS, 0, SYN, 1000), 0.0)
    endpoint.accept(0.0)
    (first,) = sent(endpoint, 0.0)
    assert endpoint.get_timer() == 1.0
    endpoint.handle_timer(1.0)
    assert sent(endpoint, 1.0) == [first]
    assert endpoint.get_timer() == 3.0


def test_data_with_the_handshakes_last_segment_is_taken() -> None:
    endpoint = TcpEndpoint.listen(SETTINGS, OURS, Segment(THEIRS, 0, SYN, 1000), 0.0)
    endpoint.accept(0.0)
    sent(endpoint, 0.0)
    endpoint.segment_received(theirs(1, 1, ACK | FIN, b"all"), 0.1)
    assert events(endpoint) == [Connected(), DataReceived(b"all"), EndOfStream()]
    assert sent(endpoint, 0.1)[0].ack == THEIRS + 5


def test_simultaneous_open() -> None:
    # RFC 9293 figure 8.
    endpoint = TcpEndpoint.connect(SETTINGS, OURS, 0.0)
    sent(endpoint, 0.0)
    endpoint.segment_received(Segment(THEIRS, 0, SYN, 1000, b"", TcpOptions(mss=100)), 0.1)
    assert endpoint.state.value == "SYN-RECEIVED"
    (again,) = sent(endpoint, 0.1)
    assert (again.seq, again.ack, again.flags) == (OURS, THEIRS + 1, SYN | ACK)
    endpoint.segment_received(Segment(THEIRS, OURS + 1, SYN | ACK, 1000), 0.2)
    assert endpoint.state is TcpState.ESTABLISHED
    assert events(endpoint) == [Connected()]


def test_refused_active_open() -> None:
    endpoint = TcpEndpoint.connect(SETTINGS, OURS, 0.0)
    sent(endpoint, 0.0)
    endpoint.segment_received(Segment(0, OURS + 1, RST | ACK, 0), 0.1)
    assert events(endpoint) == [Reset(ResetReason.REFUSED)]
    assert sent(endpoint, 0.1) == []


@pytest.mark.parametrize(
    "forged",
    [
        Segment(0, 0, RST, 0),
        Segment(0, OURS, RST | ACK, 0),
        Segment(0, OURS + 2, RST | ACK, 0),
        Segment(THEIRS, 0, ACK, 9),
    ],
)
def test_forged_answers_to_a_syn_are_no_answers(forged: Segment) -> None:
    endpoint = TcpEndpoint.connect(SETTINGS, OURS, 0.0)
    sent(endpoint, 0.0)
    endpoint.segment_received(forged, 0.1)
    assert endpoint.state is TcpState.SYN_SENT
    assert events(endpoint) == []


def test_old_syn_ack_is_reset() -> None:
    endpoint = TcpEndpoint.connect(SETTINGS, OURS, 0.0)
    sent(endpoint, 0.0)
    endpoint.segment_received(Segment(THEIRS, OURS - 5, SYN | ACK, 9), 0.1)
    assert sent(endpoint, 0.1) == [Segment(OURS - 5, 0, RST, 0)]
    assert endpoint.state is TcpState.SYN_SENT


def test_open_that_nobody_answers_times_out() -> None:
    endpoint = TcpEndpoint.connect(SETTINGS, OURS, 0.0)
    tries = [0.0]
    sent(endpoint, 0.0)
    while not endpoint.closed:
        due = endpoint.get_timer()
        assert due is not None
        endpoint.handle_timer(due)
        if any(s.flags == SYN for s in sent(endpoint, due)):
            tries.append(due)
    assert tries == [0.0, 1.0, 3.0, 7.0, 15.0]
    assert events(endpoint) == [Reset(ResetReason.TIMED_OUT)]


# -- receiving -------------------------------------------------------------------------------------------------------


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


# -- sending ---------------------------------------------------------------------------------------------------------


def test_push_is_set_on_the_last_of_what_was_written() -> None:
    endpoint = established()
    endpoint.write(bytes(250))
    assert [(len(s.payload), s.flags) for s in sent(endpoint, 0.0)] == [(100, ACK), (100, ACK), (50, ACK | PSH)]


def test_write_takes_no_more_than_the_buffer() -> None:
    endpoint = established()
    assert endpoint.write(bytes(15_000)) == 10_000
    assert endpoint.write(b"x") == 0
    endpoint.close_write()
    assert endpoint.free_bytes == 0


def test_window_of_the_peer_is_respected() -> None:
    endpoint = established(window=250)
    endpoint.write(bytes(1000))
    # A third segment would not fit; the 50 bytes left of the window wait (RFC 9293 s3.8.6.2.1).
    assert [len(s.payload) for s in sent(endpoint, 0.0)] == [100, 100]
    endpoint.segment_received(theirs(1, 201, window=250), 0.1)
    assert [len(s.payload) for s in sent(endpoint, 0.1)] == [100, 100]


def test_zero_window_is_probed_until_it_opens() -> None:
    endpoint = established(window=100)
    endpoint.write(bytes(300))
    assert [len(s.payload) for s in sent(endpoint, 0.0)] == [100]
    endpoint.segment_received(theirs(1, 101, window=0), 0.1)
    assert sent(endpoint, 0.1) == []
    probes = []
    for _ in range(4):
        due = endpoint.get_timer()
        assert due is not None
        endpoint.handle_timer(due)
        (probe,) = sent(endpoint, due)
        # One below what the peer expects: it carries nothing and must be answered.
        assert (probe.seq, len(probe.payload)) == (OURS + 100, 0)
        probes.append(due)
        endpoint.segment_received(theirs(1, 101, window=0), due)
    waits = [later - earlier for earlier, later in pairwise(probes)]
    assert waits == pytest.approx([waits[0], 2 * waits[0], 4 * waits[0]])
    endpoint.segment_received(theirs(1, 101, window=1000), probes[-1])
    assert [len(s.payload) for s in sent(endpoint, probes[-1])] == [100, 100]


def test_zero_window_is_waited_for_as_long_as_the_peer_answers() -> None:
    endpoint = established(window=100)
    endpoint.write(bytes(300))
    sent(endpoint, 0.0)
    endpoint.segment_received(theirs(1, 101, window=0), 0.1)
    sent(endpoint, 0.1)
    now = 0.1
    while now < 1000:
        due = endpoint.get_timer()
        assert due is not None
        now = due
        endpoint.handle_timer(now)
        assert sent(endpoint, now)
        endpoint.segment_received(theirs(1, 101, window=0), now)
        assert not endpoint.closed
    # Once it falls silent, the connection ends.
    while not endpoint.closed:
        due = endpoint.get_timer()
        assert due is not None
        now = due
        endpoint.handle_timer(now)
    assert endpoint.next_event() == Reset(ResetReason.TIMED_OUT)


def test_newer_acknowledgment_brings_its_window_even_from_behind() -> None:
    # It travels in a segment that a later one has overtaken, and is nevertheless the later word (its ack is higher).
    endpoint = established(window=300)
    endpoint.write(bytes(1000))
    sent(endpoint, 0.0)
    endpoint.segment_received(theirs(51, 1, data=b"ahead", window=300), 0.1)
    endpoint.segment_received(theirs(1, 301, window=400), 0.1)
    assert [len(s.payload) for s in sent(endpoint, 0.1) if s.payload] == [100] * 4


def test_older_word_on_the_window_does_not_move_its_edge() -> None:
    endpoint = established(window=300)
    endpoint.write(bytes(1000))
    sent(endpoint, 0.0)
    endpoint.segment_received(theirs(51, 201, data=b"ahead", window=150), 0.1)
    assert [len(s.payload) for s in sent(endpoint, 0.1) if s.payload] == []
    endpoint.segment_received(theirs(1, 201, data=b"behind", window=300), 0.1)
    assert [len(s.payload) for s in sent(endpoint, 0.1) if s.payload] == []


def test_sliver_of_a_window_is_used_when_nothing_else_comes() -> None:
    endpoint = established(window=1000)
    endpoint.write(bytes(1100))
    sent(endpoint, 0.0)
    endpoint.segment_received(theirs(1, 1001, window=60), 0.1)
    assert sent(endpoint, 0.1) == []
    due = endpoint.get_timer()
    assert due is not None
    endpoint.handle_timer(due)
    assert [len(s.payload) for s in sent(endpoint, due)] == [60]


def test_three_duplicates_bring_back_the_lost_segment() -> None:
    # RFC 5681 s3.2, for a peer without SACK.
    endpoint = established(options=TcpOptions(mss=100))
    endpoint.write(bytes(1000))
    assert len(sent(endpoint, 0.0)) == 10
    for _ in range(2):
        endpoint.segment_received(theirs(1, 1), 0.1)
    assert sent(endpoint, 0.1) == []
    endpoint.segment_received(theirs(1, 1), 0.1)
    assert [(s.seq, len(s.payload)) for s in sent(endpoint, 0.1)] == [(OURS + 1, 100)]
    # A partial acknowledgment reveals the next hole (RFC 6582 s3.2).
    endpoint.segment_received(theirs(1, 301), 0.2)
    assert sent(endpoint, 0.2)[0].seq == OURS + 301


def sack(blocks: Sequence[tuple[int, int]], ack: int) -> Segment:
    wire = tuple(((OURS + low) & 0xFFFFFFFF, (OURS + high) & 0xFFFFFFFF) for low, high in blocks)
    return Segment(THEIRS + 1, OURS + ack, ACK, 10_000, b"", TcpOptions(sack_blocks=wire))


def test_selective_acknowledgments_bring_back_exactly_what_is_missing() -> None:
    endpoint = established()
    endpoint.write(bytes(1000))
    sent(endpoint, 0.0)
    endpoint.segment_received(sack([(101, 201)], 1), 0.1)
    endpoint.segment_received(sack([(301, 501), (101, 201)], 1), 0.1)
    assert [s.seq - OURS for s in sent(endpoint, 0.1)] == [1]
    # The next one when the halved window has room for it.
    endpoint.segment_received(sack([(301, 801), (101, 201)], 1), 0.1)
    assert 201 in [s.seq - OURS for s in sent(endpoint, 0.1)]


def test_lost_retransmission_is_found_without_the_timer() -> None:
    endpoint = established()
    endpoint.write(bytes(2000))
    sent(endpoint, 0.0)
    endpoint.segment_received(sack([(101, 1001)], 1), 0.1)
    first = [s.seq - OURS for s in sent(endpoint, 0.1)]
    assert first[0] == 1
    # Later transmissions arrive, the retransmission of 1 does not.
    endpoint.segment_received(sack([(101, 1001 + 100 * (len(first) - 1))], 1), 0.25)
    assert 1 in [s.seq - OURS for s in sent(endpoint, 0.25)]


def test_answer_after_a_time_out_is_no_measurement() -> None:
    # Only the acknowledgment was lost; taking the wait for it as a round trip would make the next wait longer still.
    endpoint = established()
    endpoint.write(bytes(200))
    sent(endpoint, 0.0)
    endpoint.segment_received(theirs(1, 201), 0.01)
    for start in (10.0, 20.0, 30.0):
        endpoint.write(bytes(200))
        sent(endpoint, start)
        due = start
        while due < start + 0.2:
            due = endpoint.get_timer() or 0.0
            endpoint.handle_timer(due)
        acknowledged = endpoint._send.next
        endpoint.segment_received(theirs(1, acknowledged), due)
    assert endpoint._send._round_trip.rto == SETTINGS.min_rto_s


def test_data_does_not_take_the_place_of_a_duplicate_acknowledgment() -> None:
    # RFC 5681 s2: a segment with data is no duplicate acknowledgment, and it carries no SACK blocks here.
    endpoint = established()
    endpoint.write(b"ours")
    endpoint.segment_received(theirs(4, 1, data=b"def"), 0.1)
    data, duplicate = sent(endpoint, 0.1)
    assert bytes(data.payload) == b"ours"
    assert duplicate.options.sack_blocks == ((THEIRS + 4, THEIRS + 7),)


@pytest.mark.parametrize("blocks", [[(0, 5000)], [(500, 400)], [(2**31, 2**31 + 5)], [(51, 77)]])
def test_nonsense_in_selective_acknowledgments_is_ignored(blocks: list[tuple[int, int]]) -> None:
    endpoint = established()
    endpoint.write(bytes(1000))
    sent(endpoint, 0.0)
    endpoint.segment_received(sack(blocks, 1), 0.1)
    assert sent(endpoint, 0.1) == []
    endpoint.segment_received(theirs(1, 1001), 0.2)
    assert endpoint.buffered_bytes == 0


def test_selective_acknowledgments_taken_back_are_survived() -> None:
    # RFC 2018 s8: the receiver may discard what it only selectively acknowledged.
    endpoint = established()
    endpoint.write(bytes(300))
    sent(endpoint, 0.0)
    endpoint.segment_received(sack([(101, 301)], 1), 0.05)
    endpoint.segment_received(theirs(1, 101), 0.1)
    again: set[int] = set()
    for _ in range(6):
        due = endpoint.get_timer()
        assert due is not None
        endpoint.handle_timer(due)
        again.update(s.seq - OURS for s in sent(endpoint, due))
    assert {101, 201} & again


def test_acknowledgment_of_part_of_a_segment_keeps_the_rest() -> None:
    endpoint = established()
    endpoint.write(b"a" * 60 + b"b" * 40)
    sent(endpoint, 0.0)
    endpoint.segment_received(theirs(1, 61), 0.1)
    assert endpoint.buffered_bytes == 40
    due = endpoint.get_timer()
    assert due is not None
    while not (again := sent(endpoint, due)):
        endpoint.handle_timer(due)
        due = endpoint.get_timer() or due
    assert (again[0].seq, bytes(again[0].payload)) == (OURS + 61, b"b" * 40)


# -- attacks and accidents (RFC 5961) --------------------------------------------------------------------------------


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


# -- ending ----------------------------------------------------------------------------------------------------------


def test_close_by_the_peer_then_by_us() -> None:
    endpoint = established()
    endpoint.segment_received(theirs(1, 1, ACK | FIN), 0.1)
    sent(endpoint, 0.1)
    endpoint.write(b"bye")
    endpoint.close_write()
    assert [(bytes(s.payload), s.flags) for s in sent(endpoint, 0.2)] == [(b"bye", ACK | FIN | PSH)]
    assert endpoint.state is TcpState.LAST_ACK
    endpoint.segment_received(theirs(2, 5), 0.3)
    assert events(endpoint) == [EndOfStream(), Closed()]
    assert endpoint.closed


def test_time_wait_answers_a_repeated_fin_and_ends() -> None:
    endpoint = established()
    endpoint.close_write()
    sent(endpoint, 0.1)
    endpoint.segment_received(theirs(1, 2, ACK | FIN), 0.2)
    assert [s.ack for s in sent(endpoint, 0.2)] == [THEIRS + 2]
    assert endpoint.state is TcpState.TIME_WAIT
    endpoint.segment_received(theirs(1, 2, ACK | FIN), 5.0)
    assert [s.ack for s in sent(endpoint, 5.0)] == [THEIRS + 2]
    endpoint.segment_received(theirs(2, 2, RST), 6.0)
    assert endpoint.state is TcpState.TIME_WAIT
    assert endpoint.get_timer() == 5.0 + SETTINGS.time_wait_s
    endpoint.handle_timer(5.0 + SETTINGS.time_wait_s)
    assert events(endpoint) == [EndOfStream(), Closed()]
    assert endpoint.get_timer() is None


def test_time_wait_gives_way_to_a_newer_syn_only() -> None:
    endpoint = established()
    endpoint.close_write()
    sent(endpoint, 0.1)
    assert not endpoint.may_be_reopened_by(theirs(900, 0, SYN))
    endpoint.segment_received(theirs(1, 2, ACK | FIN), 0.2)
    assert endpoint.may_be_reopened_by(theirs(900, 0, SYN))
    assert not endpoint.may_be_reopened_by(theirs(-900, 0, SYN))


def test_abort_resets_the_peer() -> None:
    endpoint = established()
    endpoint.write(bytes(50))
    sent(endpoint, 0.1)
    endpoint.abort()
    assert sent(endpoint, 0.1) == [Segment(OURS + 51, THEIRS + 1, RST | ACK, 0)]
    assert events(endpoint) == [Reset(ResetReason.ABORTED)]
    assert endpoint.write(b"x") == 0


def test_segment_for_a_closed_connection_is_reset() -> None:
    endpoint = established()
    endpoint.abort()
    sent(endpoint, 0.1)
    endpoint.segment_received(theirs(1, 1, data=b"late"), 0.2)
    assert sent(endpoint, 0.2) == [Segment(OURS + 1, 0, RST, 0)]


def test_idle_connection_is_broken() -> None:
    endpoint = established(TcpSettings(send_mss=100, announced_mss=100, idle_s=120.0))
    endpoint.segment_received(theirs(1, 1), 50.0)
    assert endpoint.get_timer() == 170.0
    endpoint.handle_timer(169.0)
    assert not endpoint.closed
    endpoint.handle_timer(170.0)
    assert [s.flags for s in sent(endpoint, 170.0)] == [RST | ACK]
    assert events(endpoint) == [Reset(ResetReason.IDLE)]


def test_sequence_numbers_wrap_around() -> None:
    syn = Segment(0xFFFFFFFE, 0, SYN, 10_000, b"", TcpOptions(mss=100))
    endpoint = TcpEndpoint.listen(SETTINGS, 0xFFFFFFF0, syn, 0.0)
    endpoint.accept(0.0)
    sent(endpoint, 0.0)
    endpoint.segment_received(Segment(0xFFFFFFFF, 0xFFFFFFF1, ACK, 10_000, b"abcdef"), 0.1)
    assert events(endpoint) == [Connected(), DataReceived(b"abcdef")]
    endpoint.write(bytes(100))
    (data,) = sent(endpoint, 0.1)
    assert (data.seq, data.ack) == (0xFFFFFFF1, 5)
    endpoint.segment_received(Segment(5, 0x55, ACK, 10_000), 0.2)
    assert endpoint.buffered_bytes == 0


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
