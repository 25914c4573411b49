"""Limits of a config applied to dataclasses."""

from dataclasses import dataclass

import pytest

from ztna.config_reader import ConfigError, apply_limits


@dataclass(frozen=True, slots=True)
class One:
    count: int = 1
    rate: float = 1.0


@dataclass(frozen=True, slots=True)
class Two:
    count: int = 2
    size_bytes: int = 2


def test_names_reach_every_dataclass_that_has_them() -> None:
    assert apply_limits({"count": 5, "rate": 2, "size_bytes": 9}, One(), Two()) == (One(5, 2.0), Two(5, 9))
    assert apply_limits({}, One()) == (One(),)


def test_unknown_limit_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"^limits\.cuont: unknown limit; did you mean 'count'\?$"):
        apply_limits({"cuont": 5}, One(), Two())


def test_fraction_where_a_count_is_wanted() -> None:
    with pytest.raises(ConfigError, match=r"limits\.count: 1\.5 is not a whole number"):
        apply_limits({"count": 1.5}, One())
