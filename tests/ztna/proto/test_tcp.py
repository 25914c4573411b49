"""The TCP endpoint, segment by segment: opening and ending, the states in between (RFC 9293)."""

import pytest

from tests.ztna.proto.tcp_bed import OURS, SETTINGS, THEIRS, established, events, sent, theirs
from ztna.proto.tcp import TcpEndpoint
from ztna.proto.tcp_segment import ACK, FIN, PSH, RST, SYN, Segment, TcpOptions
from ztna.proto.tcp_types import (
    Closed,
    Connected,
    DataReceived,
    EndOfStream,
    Reset,
    ResetReason,
    TcpSettings,
    TcpState,
)


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
