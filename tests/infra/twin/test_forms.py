"""Forms that the clouds have in common."""

import pytest

from infra.engine.props import UNKNOWN
from infra.twin.forms import lowest_free, one_of
from infra.twin.interface import TwinError


def test_the_lowest_number_that_is_free() -> None:
    assert lowest_free([], 3, 5, "slot") == 3
    assert lowest_free([5, 3], 3, 5, "slot") == 4
    with pytest.raises(TwinError, match="no slot is left: 3 are in use"):
        lowest_free([3, 4, 5], 3, 5, "slot")


def test_a_value_that_is_not_there_is_refused_with_those_there_are() -> None:
    (failure,) = one_of("zone", "us-east-2d", ("us-east-2a", "us-east-2b"), "zone", ": choose")
    words = "the twin has no zone 'us-east-2d' (did you mean 'us-east-2b'?); it has us-east-2a, us-east-2b: choose"
    assert (failure.property, failure.reason) == ("zone", words)
    assert [*one_of("zone", "a", ("a",), "zone"), *one_of("zone", UNKNOWN, ("a",), "zone")] == []
    assert list(one_of("zone", None, ("a",), "zone")) == []
