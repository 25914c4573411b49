"""Requests in flight, their pace, replays, rates."""

import random

from hypothesis import given
from hypothesis import strategies as st

from ztna.proto.paths.checks import (
    KEPT_S,
    MAX_TRANSACTIONS,
    REPLAY_WINDOW,
    Pacer,
    Purpose,
    ReplayWindow,
    TokenBucket,
    TransactionTable,
)
from ztna.proto.paths.stun_types import Endpoint

REMOTE = Endpoint("10.0.0.1", 1)


def table() -> TransactionTable:
    """A table with reproducible randomness."""
    return TransactionTable(random.Random(1).randbytes)


def transaction_id(counter: int) -> bytes:
    """A transaction id with that counter."""
    return counter.to_bytes(6, "big") + b"random"


def test_ids_are_12_bytes_with_a_rising_counter() -> None:
    """The relay takes a changed source only with a counter above the last."""
    transactions = table()
    ids = []
    for n in range(300):
        made = transactions.open(Purpose.CHECK, 0, REMOTE, n / 100, 0.5)
        assert made is not None
        ids.append(made.id)
    assert [int.from_bytes(i[:6], "big") for i in ids] == list(range(1, 301))
    assert {len(i) for i in ids} == {12}
    assert len({i[6:] for i in ids}) == 300


def test_missed_once_and_answered_late() -> None:
    """A late answer still proves the path, until the transaction is forgotten."""
    transactions = table()
    made = transactions.open(Purpose.CHECK, 0, REMOTE, 1.0, 0.15)
    assert made is not None
    assert transactions.next_due() == 1.15
    assert list(transactions.missed(1.14)) == []
    assert list(transactions.missed(1.15)) == [made]
    assert list(transactions.missed(9.0)) == []
    assert transactions.find(made.id) is made
    transactions.open(Purpose.CHECK, 0, REMOTE, 1.0 + KEPT_S, 0.15)
    assert transactions.find(made.id) is None


def test_answered_is_not_missed() -> None:
    """Closing it is enough."""
    transactions = table()
    made = transactions.open(Purpose.CHECK, 0, REMOTE, 1.0, 0.15)
    assert made is not None
    transactions.close(made)
    assert transactions.next_due() is None
    assert list(transactions.missed(2.0)) == []
    transactions.close(made)


def test_the_table_is_bounded() -> None:
    """2048 in flight, then none until old ones are forgotten."""
    transactions = table()
    opened = [transactions.open(Purpose.GUESS, 0, REMOTE, 1.0, 0.5) for _ in range(MAX_TRANSACTIONS + 5)]
    assert opened[-5:] == [None] * 5
    assert len(transactions) == MAX_TRANSACTIONS
    assert transactions.open(Purpose.GUESS, 0, REMOTE, 1.0 + KEPT_S, 0.5) is not None
    assert len(transactions) == 1


def test_pacer() -> None:
    """Five milliseconds between requests."""
    pacer = Pacer(0.005)
    assert pacer.take(1.0)
    assert not pacer.take(1.004)
    assert pacer.free_at == 1.005
    assert pacer.take(1.005)


def test_replayed_and_too_old_counters_are_refused() -> None:
    """Reordering is fine, repetition is not."""
    window = ReplayWindow()
    assert [window.accept(transaction_id(n)) for n in (5, 5, 4, 4, 6)] == [True, False, True, False, True]
    assert window.accept(transaction_id(6 + REPLAY_WINDOW))
    assert not window.accept(transaction_id(6))
    assert window.accept(transaction_id(7))
    assert not window.accept(transaction_id(7))


@given(st.lists(st.integers(0, 3000), max_size=200))
def test_no_counter_is_taken_twice(counters: list[int]) -> None:
    """Whatever the order."""
    window = ReplayWindow()
    taken = [n for n in counters if window.accept(transaction_id(n))]
    assert len(taken) == len(set(taken))
    assert not counters or counters[0] in taken


def test_token_bucket() -> None:
    """A burst, then the rate."""
    bucket = TokenBucket(10.0, 3.0)
    assert [bucket.allow(1.0) for _ in range(5)] == [True, True, True, False, False]
    assert bucket.allow(1.1)
    assert not bucket.allow(1.1)
    assert [bucket.allow(100.0) for _ in range(5)] == [True, True, True, False, False]
