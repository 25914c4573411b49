"""What a TCP connection sends: windows, probes, loss and its repair (RFC 9293, 5681, 6582, 2018)."""

from itertools import pairwise

import pytest

from tests.ztna.proto.tcp_bed import OURS, SETTINGS, THEIRS, established, sack, sent, theirs
from ztna.proto.tcp_segment import ACK, PSH, TcpOptions
from ztna.proto.tcp_types import (
    Reset,
    ResetReason,
)


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
