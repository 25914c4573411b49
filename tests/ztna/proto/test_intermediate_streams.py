"""The intermediate's streams: one buffer each, frames that expire, and input that cannot wedge them."""

from tests.ztna.proto.intermediate_bed import Bed
from ztna.proto.limits import IntermediateLimits
from ztna.proto.signalling import (
    MAX_FRAME_BYTES,
    Candidate,
    CandidateAnswer,
    CandidateOffer,
    CandidateType,
    PunchingResult,
    SocketAddress,
    encode_frame,
)


def test_answers_go_to_stream_0_if_the_client_opened_it_else_to_stream_1() -> None:
    bed = Bed()
    bed.agent(1)
    bed.connector(10)
    offer = CandidateOffer(1, "echo", ())
    assert bed.signal(1, offer, stream_id=4) == [(10, 1, offer)]
    sent = bed.signal(10, CandidateAnswer(1, ()), stream_id=0)
    assert [(conn, stream) for conn, stream, _ in sent] == [(1, 1), (10, 0)]
    bed.core.stream_received(1, 0, b"", False, 0.0)
    sent = bed.signal(10, CandidateAnswer(1, ()), stream_id=0)
    assert [(conn, stream) for conn, stream, _ in sent] == [(1, 0), (10, 0)]


def test_each_stream_has_its_own_buffer_and_fin_discards_it() -> None:
    bed = Bed()
    bed.agent(1)
    bed.connector(10)
    first, second = encode_frame(CandidateOffer(1, "echo", ())), encode_frame(CandidateOffer(2, "echo", ()))
    bed.core.stream_received(1, 0, first[:9], False, 0.0)
    bed.core.stream_received(1, 4, second[:5], False, 0.0)
    bed.core.stream_received(1, 0, first[9:], False, 0.0)
    assert [message for _, _, message in bed.signalled()] == [CandidateOffer(1, "echo", ())]
    bed.core.stream_received(1, 4, b"", True, 0.0)
    bed.core.stream_received(1, 4, second[5:], False, 0.0)
    assert bed.signalled() == []


def test_frames_before_a_fin_are_handled() -> None:
    bed = Bed()
    bed.agent(1)
    bed.connector(10)
    assert len(bed.signal(1, CandidateOffer(1, "echo", ()), fin=True)) == 1


def test_bad_frames_are_counted_and_the_stream_stays_usable() -> None:
    bed = Bed()
    bed.agent(1)
    bed.connector(10)
    good = encode_frame(CandidateOffer(1, "echo", ()))
    bed.core.stream_received(1, 0, b"\0\0\0\1x" + good, False, 0.0)
    assert len(bed.signalled()) == 1
    bed.core.stream_received(1, 0, b"\xff" * 4 + good, False, 0.0)
    assert bed.signalled() == []
    assert bed.stats.drop_frame == 2
    assert len(bed.signal(1, CandidateOffer(1, "echo", ()))) == 1


def test_unidirectional_streams_and_too_many_incomplete_frames_are_dropped() -> None:
    bed = Bed(limits=IntermediateLimits(streams_per_connection=2, incomplete_frames=3))
    bed.agent(1)
    bed.agent(2, "agent-2")
    bed.core.stream_received(1, 2, b"\0", False, 0.0)
    for conn, stream_id in ((1, 0), (1, 4), (1, 8), (2, 0), (2, 4)):
        bed.core.stream_received(conn, stream_id, b"\0", False, 0.0)
    assert bed.stats.drop_stream == 3


def test_incomplete_frames_expire() -> None:
    bed = Bed()
    bed.agent(1)
    frame = encode_frame(PunchingResult(1, False))
    bed.core.stream_received(1, 0, frame[:5], False, 0.0)
    bed.core.stream_received(1, 4, frame[:5], False, 3.0)
    # A frame that was completed gives its successor a time of its own.
    bed.core.stream_received(1, 0, frame[5:] + frame[:5], False, 5.0)
    assert bed.core.get_timer() == 13.0
    bed.at(13.0)
    assert bed.stats.drop_frame_timeout == 1
    assert bed.core.get_timer() == 15.0
    bed.close(1)
    assert bed.core.get_timer() is None
    bed.at(20.0)
    assert bed.stats.drop_frame_timeout == 1


def test_a_dribbled_frame_does_not_live_longer() -> None:
    bed = Bed()
    bed.agent(1)
    frame = encode_frame(PunchingResult(1, False))
    for tick in range(10):
        bed.core.stream_received(1, 0, frame[tick : tick + 1], False, float(tick))
    bed.at(10.0)
    assert bed.stats.drop_frame_timeout == 1


def test_a_skipped_frame_gives_its_successor_a_time_of_its_own() -> None:
    bed = Bed()
    bed.agent(1)
    bed.core.stream_received(1, 0, bytes(3), False, 0.0)
    bed.core.stream_received(1, 0, bytes(3), False, 6.0)
    assert bed.core.get_timer() == 16.0


def test_an_answer_too_large_to_be_passed_on_is_dropped() -> None:
    bed = Bed()
    bed.agent(1)
    bed.connector(10)
    bed.signal(1, CandidateOffer(1, "echo", ()))
    bed.core.stream_received(10, 0, encode_frame(_answer_of_size(MAX_FRAME_BYTES)), False, 0.0)
    assert [conn for conn, _, _ in bed.signalled()] == [10]
    assert bed.stats.drop_session_limit == 1


def _answer_of_size(size: int) -> CandidateAnswer:
    def answer(length: int) -> CandidateAnswer:
        return CandidateAnswer(1, (Candidate(CandidateType.HOST, SocketAddress("1.2.3.4", 5), 1, "x" * length),))

    return answer(size - len(answer(0).encode()))
