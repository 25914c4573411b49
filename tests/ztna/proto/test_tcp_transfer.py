"""Two TCP endpoints on a bad link in virtual time: whatever the link does, what arrives is what was sent."""

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ztna.proto.tcp_pair import Link, Pair, Side
from ztna.proto.tcp_segment import ACK, FIN, RST, Segment
from ztna.proto.tcp_types import TcpSettings, TcpState

# The real TIME-WAIT is cut short for the sake of tables; here it is long enough to hear every retransmitted FIN.
PATIENT_S = 600.0

LINKS = st.builds(
    Link,
    delay_s=st.sampled_from([0.0, 0.001, 0.05]),
    jitter_s=st.sampled_from([0.0, 0.001, 0.2]),
    loss=st.sampled_from([0.0, 0.02, 0.1, 0.3]),
    duplicate=st.sampled_from([0.0, 0.1]),
)
SETTINGS = st.builds(
    TcpSettings,
    send_mss=st.sampled_from([64, 536, 1266]),
    announced_mss=st.sampled_from([64, 536, 1266]),
    receive_buffer_bytes=st.sampled_from([2_000, 20_000, 500_000]),
    send_buffer_bytes=st.sampled_from([2_000, 20_000, 500_000]),
    window_scale=st.booleans(),
    sack=st.booleans(),
    time_wait_s=st.just(PATIENT_S),
    give_up_s=st.just(PATIENT_S),
    handshake_s=st.just(PATIENT_S),
)


def contents(seed: int, size: int) -> bytes:
    return Random(seed).randbytes(size)


def assert_intact(pair: Pair, up: bytes, down: bytes) -> None:
    assert pair.server is not None
    assert bytes(pair.server.incoming) == up
    assert bytes(pair.client.incoming) == down
    for side in pair.sides:
        assert side.reset is None
        assert side.closed
        assert side.connected
        assert side.ended


@settings(max_examples=150, deadline=None)
@given(
    client=SETTINGS,
    server=SETTINGS,
    up=LINKS,
    down=LINKS,
    up_bytes=st.integers(0, 60_000),
    down_bytes=st.integers(0, 60_000),
    seed=st.integers(0, 2**32),
)
def test_any_data_arrives_intact_over_any_link(
    client: TcpSettings, server: TcpSettings, up: Link, down: Link, up_bytes: int, down_bytes: int, seed: int
) -> None:
    pair = Pair(client=client, server=server, up=up, down=down, seed=seed)
    pair.client.outgoing = contents(seed, up_bytes)
    pair.server_outgoing = contents(seed + 1, down_bytes)
    pair.run(pair.finished)
    assert_intact(pair, contents(seed, up_bytes), contents(seed + 1, down_bytes))


@settings(max_examples=40, deadline=None)
@given(up=LINKS, down=LINKS, size=st.integers(1, 40_000), seed=st.integers(0, 2**32))
def test_half_closed_direction_still_carries_an_answer(up: Link, down: Link, size: int, seed: int) -> None:
    patient = TcpSettings(send_mss=1266, announced_mss=1266, time_wait_s=PATIENT_S, give_up_s=PATIENT_S)
    pair = Pair(client=patient, server=patient, up=up, down=down, seed=seed)
    pair.client.outgoing = b"question"
    pair.server_close_after = False
    pair.run(lambda: pair.server is not None and pair.server.ended)
    assert pair.server is not None
    assert pair.server.incoming == b"question"
    answer = contents(seed, size)
    pair.server.outgoing, pair.server.close_after = answer, True
    pair.run(pair.finished)
    assert_intact(pair, b"question", answer)


@settings(max_examples=40, deadline=None)
@given(up=LINKS, down=LINKS, stop_s=st.sampled_from([0.1, 3.0, 30.0]), seed=st.integers(0, 2**32))
def test_reader_that_stops_and_goes_on_loses_nothing(up: Link, down: Link, stop_s: float, seed: int) -> None:
    small = TcpSettings(
        send_mss=1266, announced_mss=1266, receive_buffer_bytes=8_000, time_wait_s=PATIENT_S, give_up_s=PATIENT_S
    )
    pair = Pair(client=small, server=small, up=up, down=down, seed=seed)
    data = contents(seed, 50_000)
    pair.client.outgoing = data
    pair.run(lambda: pair.server is not None)
    assert pair.server is not None
    pair.server.reads = False
    resume_at = pair.now + stop_s
    pair.run(lambda: pair.now >= resume_at)
    assert len(pair.server.incoming) <= 8_000
    pair.server.reads = True
    pair.run(pair.finished)
    assert_intact(pair, data, b"")


@pytest.mark.parametrize(("sack", "limit_s", "waste"), [(True, 75.0, 1.5), (False, 90.0, 2.5)])
def test_ten_megabytes_at_three_per_cent_loss_each_way_take_a_sensible_time(
    sack: bool, limit_s: float, waste: float
) -> None:
    # At 40 ms and 3 % loss, sqrt(3/2)/sqrt(p) segments per round trip (RFC 5681's behaviour) are 45 s for 10 MB.
    tcp = TcpSettings(send_mss=1266, announced_mss=1266, sack=sack, time_wait_s=0.5)
    pair = Pair(client=tcp, server=tcp, up=Link(loss=0.03), down=Link(loss=0.03), seed=1)
    data = contents(1, 10_000_000)
    pair.client.outgoing = data
    seconds = pair.run(lambda: pair.server is not None and pair.server.ended)
    assert pair.server is not None
    assert pair.server.incoming == data
    assert seconds < limit_s
    # Retransmissions repair losses and little else.
    assert pair.client.endpoint.segments_retransmitted < waste * 0.03 * len(data) / 1266


def test_clean_link_is_filled() -> None:
    tcp = TcpSettings(send_mss=1266, announced_mss=1266)
    link = Link(delay_s=0.02, rate_bps=50e6)
    pair = Pair(client=tcp, server=tcp, up=link, seed=1)
    pair.client.outgoing = bytes(10_000_000)
    seconds = pair.run(lambda: pair.server is not None and pair.server.ended)
    assert seconds < 10_000_000 * 8 / 50e6 * 1.25
    assert pair.client.endpoint.segments_retransmitted == 0


def test_lost_tail_is_probed_before_the_time_out() -> None:
    # The last segment of a request has no successors whose acknowledgments could reveal its loss.
    tcp = TcpSettings(send_mss=1000, announced_mss=1000)
    lost: list[Segment] = []

    def drop_last_once(segment: Segment) -> bool:
        if not lost and len(segment.payload) == 500:
            lost.append(segment)
            return True
        return False

    pair = Pair(client=tcp, server=tcp, up=Link(delay_s=0.005, drop=drop_last_once), down=Link(delay_s=0.005))
    pair.client.close_after = False
    pair.client.outgoing = bytes(3_500)
    seconds = pair.run(lambda: pair.server is not None and len(pair.server.incoming) == 3_500)
    assert lost
    assert seconds < 0.1


def test_segments_respect_both_sides_limits() -> None:
    pair = Pair(
        client=TcpSettings(send_mss=1200, announced_mss=900),
        server=TcpSettings(send_mss=1266, announced_mss=1000),
    )
    pair.client.outgoing = bytes(20_000)
    pair.server_outgoing = bytes(20_000)
    pair.run(pair.finished)
    assert max(len(s.payload) for _, name, s in pair.seen if name == "client") == 1000
    assert max(len(s.payload) for _, name, s in pair.seen if name == "server") == 900


def test_smaller_segments_after_the_path_shrinks() -> None:
    # Large segments vanish; after the path's limit is known, what was lost goes out again cut down.
    pair = Pair(up=Link(drop=lambda segment: len(segment.payload) > 600))
    data = contents(3, 30_000)
    pair.client.outgoing = data
    pair.run(lambda: len(pair.seen) > 6)
    pair.client.endpoint.set_send_mss(600)
    pair.run(lambda: pair.server is not None and pair.server.ended, limit_s=60)
    assert pair.server is not None
    assert pair.server.incoming == data


def test_delayed_acknowledgments_halve_the_acknowledgments() -> None:
    pair = Pair(up=Link(rate_bps=20e6))
    pair.client.outgoing = bytes(2_000_000)
    pair.run(pair.finished)
    data = sum(1 for _, name, s in pair.seen if name == "client" and s.payload)
    pure = sum(1 for _, name, s in pair.seen if name == "server" and not s.payload)
    assert data * 0.4 < pure < data * 0.6


def test_unanswered_data_breaks_the_connection_in_the_end() -> None:
    dark = {"on": False}
    pair = Pair(up=Link(drop=lambda s: dark["on"]), down=Link(drop=lambda s: dark["on"]))
    pair.client.close_after = pair.server_close_after = False
    pair.run(lambda: pair.client.connected and pair.server is not None and pair.server.connected)
    dark["on"] = True
    pair.client.outgoing = b"anybody?"
    started = pair.now
    pair.run(lambda: pair.client.reset is not None)
    assert pair.client.reset is not None
    assert pair.client.reset.reason.value == "timed out"
    assert 100 <= pair.now - started <= 140
    tries = [at for at, name, s in pair.seen if name == "client" and s.payload]
    gaps = [later - earlier for earlier, later in pairwise(tries)]
    # RFC 6298 s5.5: each wait is twice the one before, up to the maximum.
    assert all(b == pytest.approx(min(2 * a, 30.0), rel=0.01) for a, b in pairwise(gaps[1:]))


def test_simultaneous_close_ends_in_time_wait_on_both_sides() -> None:
    pair = Pair(up=Link(delay_s=0.1), down=Link(delay_s=0.1))
    pair.client.close_after = pair.server_close_after = False
    pair.run(lambda: pair.client.connected and pair.server is not None and pair.server.connected)
    assert pair.server is not None
    pair.client.close_after = pair.server.close_after = True
    states: set[tuple[TcpState, TcpState]] = set()

    def over() -> bool:
        assert pair.server is not None
        states.add((pair.client.endpoint.state, pair.server.endpoint.state))
        return pair.finished()

    pair.run(over)
    assert (TcpState.CLOSING, TcpState.CLOSING) in states
    assert (TcpState.TIME_WAIT, TcpState.TIME_WAIT) in states
    assert all(side.reset is None for side in pair.sides)


def test_fin_travels_with_the_last_data() -> None:
    pair = Pair()
    pair.client.outgoing = b"all of it"
    pair.run(pair.finished)
    last = [s for _, name, s in pair.seen if name == "client" and s.payload]
    assert [bytes(s.payload) for s in last] == [b"all of it"]
    # It was written before the close, in the same turn of the application.
    assert any(s.flags & FIN for _, name, s in pair.seen if name == "client")


def close_states(side: Side, pair: Pair) -> list[TcpState]:
    seen: list[TcpState] = []

    def watch() -> bool:
        state = side.endpoint.state
        if not seen or seen[-1] is not state:
            seen.append(state)
        return pair.finished()

    pair.run(watch)
    return seen


def test_states_of_an_orderly_close() -> None:
    pair = Pair()
    pair.client.close_after = pair.server_close_after = False
    pair.run(lambda: pair.client.connected and pair.server is not None and pair.server.connected)
    assert pair.server is not None
    pair.client.close_after = True
    pair.run(lambda: pair.server is not None and pair.server.ended)
    assert pair.server.endpoint.state is TcpState.CLOSE_WAIT
    assert pair.client.endpoint.state is TcpState.FIN_WAIT_1
    pair.run(lambda: pair.client.endpoint.state is TcpState.FIN_WAIT_2)
    pair.server.close_after = True
    assert close_states(pair.client, pair) == [
        TcpState.FIN_WAIT_2,
        TcpState.TIME_WAIT,
        TcpState.CLOSED,
    ]
    assert not any(s.flags & RST for _, _, s in pair.seen)
    assert pair.seen[-1][2].flags == ACK
