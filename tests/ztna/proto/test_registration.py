"""Client registration: what is sent when, and what each answer changes."""

import pytest

from ztna.proto.errors import LocalProtocolError
from ztna.proto.registration import Registration, RegistrationState
from ztna.proto.wire import RegisterAgent, RegisterConnector

PY = bytes.fromhex("11 02 70 79")


def sends(subject: Registration, until: float) -> list[float]:
    """Return the times at which something was sent, serving every timer on time."""
    times = []
    while (due := subject.get_timer()) is not None and due <= until:
        assert subject.messages_due(due) == [PY]
        times.append(due)
    return times


def test_unanswered_it_is_sent_at_0_2_4_s_and_then_ever_less_often() -> None:
    subject = Registration(RegisterConnector, ["py"])
    assert subject.get_timer() is None
    subject.connected(100.0)
    assert [at - 100.0 for at in sends(subject, 230.0)] == [0, 2, 4, 8, 16, 32, 62, 92, 122]


def test_an_ack_ends_the_repeating() -> None:
    subject = Registration(RegisterConnector, ["py"])
    subject.connected(0.0)
    sends(subject, 2.0)
    assert subject.accepted("py")
    assert subject.state("py") is RegistrationState.REGISTERED
    assert subject.get_timer() is None
    assert not subject.accepted("py")


def test_a_late_ack_counts() -> None:
    subject = Registration(RegisterConnector, ["py"])
    subject.connected(0.0)
    sends(subject, 100.0)
    assert subject.accepted("py")


def test_a_nack_denies_and_is_asked_again_once_a_minute() -> None:
    subject = Registration(RegisterConnector, ["py"])
    subject.connected(0.0)
    sends(subject, 0.0)
    assert subject.refused("py", 1.0)
    assert subject.denied == {"py"}
    assert sends(subject, 130.0) == [61.0, 121.0]
    assert not subject.refused("py", 130.0)
    assert subject.accepted("py")
    assert subject.denied == set()


def test_a_registration_can_be_withdrawn() -> None:
    subject = Registration(RegisterConnector, ["py"])
    subject.connected(0.0)
    subject.accepted("py")
    assert subject.refused("py", 5.0)
    assert subject.states() == {"py": RegistrationState.DENIED}


def test_answers_for_nobody_or_while_disconnected_change_nothing() -> None:
    subject = Registration(RegisterConnector, ["py"])
    assert not subject.accepted("py")
    assert not subject.refused("py", 0.0)
    subject.connected(0.0)
    assert not subject.accepted("other")
    assert not subject.refused("other", 0.0)
    assert subject.state("other") is None


def test_a_new_connection_starts_over() -> None:
    subject = Registration(RegisterAgent, ["a", "b", "a"])
    assert subject.services == ("a", "b")
    subject.connected(0.0)
    assert subject.messages_due(0.0) == [RegisterAgent("a").encode(), RegisterAgent("b").encode()]
    subject.accepted("a")
    subject.refused("b", 0.0)
    subject.disconnected()
    assert subject.states() == {"a": RegistrationState.IDLE, "b": RegistrationState.IDLE}
    assert (subject.get_timer(), subject.denied, subject.messages_due(99.0)) == (None, set(), [])
    subject.connected(100.0)
    assert len(subject.messages_due(100.0)) == 2
    assert subject.messages_due(101.0) == []


def test_a_client_without_services_is_our_own_mistake() -> None:
    with pytest.raises(LocalProtocolError):
        Registration(RegisterAgent, [])


def test_standby_is_a_state_of_its_own_that_is_asked_about_once_a_minute() -> None:
    subject = Registration(RegisterConnector, ["a"])
    assert not subject.standby("a", 0.0)
    subject.connected(0.0)
    assert subject.services_due(0.0) == ["a"]
    assert (subject.standby("a", 0.1), subject.standby("a", 0.2), subject.standby("b", 0.2)) == (True, False, False)
    assert (subject.state("a"), subject.get_timer()) == (RegistrationState.STANDBY, 60.2)
    assert (subject.services_due(60.2), subject.get_timer()) == (["a"], 120.2)
    assert subject.accepted("a")
    assert (subject.state("a"), subject.get_timer()) == (RegistrationState.REGISTERED, None)
