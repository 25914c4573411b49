"""Signalling sessions: who may say what in them, and what everybody else gets."""

import pytest

from tests.ztna.proto.intermediate_bed import Bed
from ztna.proto.limits import IntermediateLimits
from ztna.proto.signalling import (
    Candidate,
    CandidateAnswer,
    CandidateOffer,
    CandidateType,
    ErrorCode,
    PunchingResult,
    SignallingError,
    SocketAddress,
    StartPunching,
)

AGENT_SIDE = (Candidate(CandidateType.HOST, SocketAddress("192.168.1.100", 50000), 0x7EFFFFFF, "host_192.168.1.100"),)
CONNECTOR_SIDE = (Candidate(CandidateType.HOST, SocketAddress("172.22.0.10", 4434), 0x7E000100, "host_172.22.0.10"),)
OFFER = CandidateOffer(12345, "echo", AGENT_SIDE)
ANSWER = CandidateAnswer(12345, CONNECTOR_SIDE)
NOT_FOUND = SignallingError(12345, ErrorCode.SESSION_NOT_FOUND, "Session 12345 not found")
NO_CONNECTOR = SignallingError(12345, ErrorCode.NO_CONNECTOR_AVAILABLE, "No Connector available for service 'echo'")


@pytest.fixture
def bed() -> Bed:
    bed = Bed()
    bed.agent(1)
    bed.agent(2, "agent-2")
    bed.connector(10)
    bed.connector(11, "other", "http")
    for conn in (1, 2, 10, 11):
        bed.core.stream_received(conn, 0, b"", False, 0.0)
    return bed


def test_offer_answer_and_punching(bed: Bed) -> None:
    assert bed.signal(1, OFFER) == [(10, 0, OFFER)]
    both = [(1, 0, StartPunching(12345, 100, CONNECTOR_SIDE)), (10, 0, StartPunching(12345, 100, AGENT_SIDE))]
    assert bed.signal(10, ANSWER) == both
    assert bed.signal(10, ANSWER) == both
    result = PunchingResult(12345, True, SocketAddress("172.22.0.10", 4434))
    assert bed.signal(1, result) == [(10, 0, result)]
    assert bed.signal(10, result) == [(1, 0, result)]
    assert (bed.stats.sessions_opened, bed.core.sessions) == (1, 1)


def test_an_error_is_passed_on_and_ends_the_session(bed: Bed) -> None:
    bed.signal(1, OFFER)
    error = SignallingError(12345, ErrorCode.PEER_REJECTED, "no")
    assert bed.signal(10, error) == [(1, 0, error)]
    assert bed.core.sessions == 0
    assert bed.signal(10, ANSWER) == [(10, 0, NOT_FOUND)]


def test_no_connector(bed: Bed) -> None:
    bed.close(10)
    assert bed.signal(1, OFFER) == [(1, 0, NO_CONNECTOR)]
    assert bed.stats.drop_offer_refused == 0


def test_offers_of_strangers_learn_nothing(bed: Bed) -> None:
    # Not registered for it, as agent or at all: the same words as if nobody served it.
    offer = CandidateOffer(12345, "http", AGENT_SIDE)
    no_connector = SignallingError(12345, ErrorCode.NO_CONNECTOR_AVAILABLE, "No Connector available for service 'http'")
    assert bed.signal(1, offer) == [(1, 0, no_connector)]
    assert bed.signal(11, offer) == [(11, 0, no_connector)]
    assert bed.stats.drop_offer_refused == 2


def test_an_absurd_service_name_is_not_echoed_whole(bed: Bed) -> None:
    ((_, _, error),) = bed.signal(1, CandidateOffer(1, "x" * 60000, ()))
    assert isinstance(error, SignallingError)
    assert len(error.message) < 400


def test_answers_only_from_the_chosen_connector(bed: Bed) -> None:
    bed.signal(1, OFFER)
    assert bed.signal(11, ANSWER) == [(11, 0, NOT_FOUND)]
    assert bed.signal(2, ANSWER) == [(2, 0, NOT_FOUND)]
    assert bed.signal(1, ANSWER) == [(1, 0, NOT_FOUND)]
    assert bed.stats.drop_session_unknown == 3
    assert len(bed.signal(10, ANSWER)) == 2


def test_outsiders_cannot_speak_in_a_session(bed: Bed) -> None:
    bed.signal(1, OFFER)
    assert bed.signal(2, PunchingResult(12345, True)) == []
    assert bed.signal(11, SignallingError(12345, ErrorCode.UNKNOWN, "")) == []
    assert bed.core.sessions == 1
    assert bed.stats.drop_session_unknown == 2


def test_two_agents_do_not_share_an_id_on_one_connector(bed: Bed) -> None:
    bed.signal(1, OFFER)
    in_use = SignallingError(12345, ErrorCode.INVALID_MESSAGE, "Session 12345 is in use")
    assert bed.signal(2, OFFER) == [(2, 0, in_use)]
    assert bed.stats.drop_session_clash == 1
    assert [conn for conn, _, _ in bed.signal(10, ANSWER)] == [1, 10]


def test_the_same_id_on_two_connectors_makes_two_sessions(bed: Bed) -> None:
    bed.agent(2, "agent-2", "http")
    bed.agent(3, "agent-3", "http")
    bed.signal(1, OFFER)
    assert bed.signal(3, CandidateOffer(12345, "http", ())) == [(11, 0, CandidateOffer(12345, "http", ()))]
    assert [conn for conn, _, _ in bed.signal(11, ANSWER)] == [3, 11]
    assert [conn for conn, _, _ in bed.signal(10, ANSWER)] == [1, 10]


def test_a_repeated_offer_replaces_the_candidates(bed: Bed) -> None:
    bed.signal(1, CandidateOffer(12345, "echo", ()))
    bed.at(4.0)
    assert bed.signal(1, OFFER) == [(10, 0, OFFER)]
    bed.at(8.0)
    assert (10, 0, StartPunching(12345, 100, AGENT_SIDE)) in bed.signal(10, ANSWER)
    assert bed.stats.sessions_opened == 1


def test_an_offer_for_a_service_on_another_connector_starts_over(bed: Bed) -> None:
    bed.agent(1, "agent-1", "echo", "http")
    bed.agent(3, "agent-3", "echo", "http")
    bed.signal(3, OFFER)
    moved = CandidateOffer(12345, "http", AGENT_SIDE)
    assert bed.signal(3, moved) == [(11, 1, moved)] or bed.signal(3, moved) == [(11, 0, moved)]
    assert bed.signal(10, ANSWER) == [(10, 0, NOT_FOUND)]
    assert bed.core.sessions == 1


def test_sessions_live_5_s_in_every_state(bed: Bed) -> None:
    bed.signal(1, OFFER)
    bed.signal(10, ANSWER)
    assert bed.core.get_timer() == 5.0
    bed.now = 5.0
    # Even before the timer was served.
    assert bed.signal(10, ANSWER) == [(10, 0, NOT_FOUND)]
    assert bed.signal(1, PunchingResult(12345, True)) == []
    bed.at(5.0)
    assert (bed.core.sessions, bed.stats.sessions_expired) == (0, 1)


def test_sessions_end_with_either_connection(bed: Bed) -> None:
    bed.signal(1, OFFER)
    bed.signal(2, CandidateOffer(7, "echo", ()))
    bed.close(1)
    assert bed.core.sessions == 1
    bed.close(10)
    assert bed.core.sessions == 0


def test_sessions_of_one_connection_and_of_all_are_bounded() -> None:
    bed = Bed(limits=IntermediateLimits(sessions=3, sessions_per_connection=2))
    bed.agent(1)
    bed.agent(2, "agent-2")
    bed.connector(10)
    for session in range(3):
        bed.signal(1, CandidateOffer(session, "echo", ()))
    assert (bed.core.sessions, bed.stats.drop_session_limit) == (2, 1)
    for session in range(3, 6):
        bed.signal(2, CandidateOffer(session, "echo", ()))
    assert (bed.core.sessions, bed.stats.drop_session_limit) == (3, 3)
    bed.now = 5.0
    assert len(bed.signal(1, OFFER)) == 1


def test_messages_of_one_session_are_bounded() -> None:
    bed = Bed(limits=IntermediateLimits(session_messages=3))
    bed.agent(1)
    bed.connector(10)
    assert [len(bed.signal(1, OFFER)) for _ in range(5)] == [1, 1, 1, 0, 0]
    assert bed.signal(10, ANSWER) == []
    assert bed.signal(10, PunchingResult(12345, True)) == []
    assert bed.stats.drop_session_limit == 4


def test_long_lists_of_candidates_are_dropped() -> None:
    bed = Bed(limits=IntermediateLimits(session_candidates=1))
    bed.agent(1)
    bed.connector(10)
    assert bed.signal(1, CandidateOffer(12345, "echo", AGENT_SIDE * 2)) == []
    bed.signal(1, OFFER)
    assert bed.signal(10, CandidateAnswer(12345, CONNECTOR_SIDE * 2)) == []
    assert bed.stats.drop_session_limit == 2


def test_messages_that_make_no_sense_from_a_client_are_counted(bed: Bed) -> None:
    assert bed.signal(1, StartPunching(12345, 100, ())) == []
    assert bed.signal(1, SignallingError(None, ErrorCode.UNKNOWN, "")) == []
    assert bed.stats.drop_signalling_unexpected == 2
