"""Reassembly and the receive window, against a model that simply remembers which bytes came."""

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from ztna.proto.tcp_receive import ReceiveSide

STREAM = Random(3).randbytes(3000)
PIECES = st.tuples(st.integers(0, 400), st.integers(0, 120)).map(lambda piece: (piece[0], piece[0] + piece[1]))


def receiver(buffer_bytes: int = 3000, least_gain: int = 100) -> ReceiveSide:
    side = ReceiveSide(0xFFFFFF00, buffer_bytes, 0, least_gain)
    side.window_field()
    return side


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=40), st.integers(350, 600))
def test_any_pieces_in_any_order_give_the_stream(pieces: list[tuple[int, int]], fin_at: int) -> None:
    side = receiver()
    here: set[int] = set()
    taken = b""
    for start, end in pieces:
        fin = end >= fin_at
        end = min(end, fin_at)
        if start > end:
            continue
        side.receive(1 + start, STREAM[start:end], fin)
        here.update(range(start, end))
        taken += side.take()
        ready = next(at for at in range(len(STREAM)) if at not in here)
        assert taken == STREAM[:ready]
        assert side.next == 1 + ready + side.finished
        # What waits is exactly what came beyond the first gap, and the blocks say so.
        waiting = sum(len(piece) for piece in side._pieces.values())
        assert waiting == len([at for at in here if at > ready])
        base = (0xFFFFFF00 + 1) & 0xFFFFFFFF
        for low, high in side.sack_blocks():
            assert set(range((low - base) & 0xFFFFFFFF, (high - base) & 0xFFFFFFFF)) <= here


def test_block_of_the_latest_segment_comes_first() -> None:
    # RFC 2018 s4.
    side = receiver()
    base = (0xFFFFFF00 + 1) & 0xFFFFFFFF
    for start in (100, 300, 500, 700, 200):
        side.receive(1 + start, bytes(50), False)
    blocks = [((low - base) & 0xFFFFFFFF, (high - base) & 0xFFFFFFFF) for low, high in side.sack_blocks()]
    assert blocks[0] == (200, 250)
    assert len(blocks) == 3


def test_edge_never_moves_back() -> None:
    side = receiver(1000)
    side.receive(1, bytes(600), False)
    assert side.window_field() == 400
    side.buffer_bytes = 100
    assert side.window_field() == 400
    side.receive(601, bytes(500), False)
    assert side.next == 1001
    assert side.window_field() == 0


def test_edge_moves_by_whole_segments_only() -> None:
    side = receiver(1000)
    side.receive(1, bytes(1000), False)
    assert side.window_field() == 0
    side.unconsumed -= 99
    assert not side.window_update_due()
    assert side.window_field() == 0
    side.unconsumed -= 1
    assert side.window_update_due()
    assert side.window_field() == 100


def test_window_beyond_the_field_is_capped() -> None:
    side = ReceiveSide(0, 200_000, 0, 1000)
    assert side.window_field() == 0xFFFF
    side.receive(1 + 0xFFFF, b"beyond", False)
    assert not side.out_of_order
    scaled = ReceiveSide(0, 200_000, 2, 1000)
    assert scaled.window_field() == 50_000


def test_fin_that_contradicts_data_already_here_is_ignored() -> None:
    side = receiver()
    side.receive(11, bytes(10), False)
    side.receive(6, bytes(2), True)
    side.receive(1, bytes(20), False)
    assert not side.finished
    assert side.next == 21
