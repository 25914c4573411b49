"""Which sessions a connector asks about after its connection to the intermediate was lost."""

import asyncio

import pytest

from ztna.io.session import unconfirmed
from ztna.io.session.unconfirmed import Unconfirmed

ONE, TWO = b"1" * 16, b"2" * 16


async def test_only_what_was_not_named_in_time_is_asked_about_and_only_then_denied() -> None:
    asked: list[bytes] = []
    sessions = Unconfirmed(asyncio.get_running_loop(), asked.append)
    sessions.begin([ONE, TWO])
    assert not sessions.denied(TWO), "the agent may not be back yet"
    sessions.confirmed(ONE)
    sessions._due()
    assert asked == [TWO]
    assert (sessions.denied(ONE), sessions.denied(TWO)) == (False, True)
    sessions.confirmed(TWO)
    assert not sessions.denied(TWO)
    sessions.close()


async def test_the_question_comes_by_itself_and_another_connection_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unconfirmed, "CONFIRM_S", 0.0)
    asked: list[bytes] = []
    sessions = Unconfirmed(asyncio.get_running_loop(), asked.append)
    sessions.begin([ONE])
    sessions.begin([TWO])
    await asyncio.sleep(0.01)
    assert asked == [TWO]
    sessions.begin([])
    assert not sessions.denied(TWO)
    assert sessions._timer is None
