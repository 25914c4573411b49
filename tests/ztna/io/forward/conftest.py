"""One rig per module, checked to be clean before each test."""

from collections.abc import Iterator
from functools import partial

import pytest

from tests.support.relay_rig import Rig, relay_rig
from tests.ztna.io.forward.bed import BACKENDS, Run, left_behind, run_on


@pytest.fixture(scope="module")
def shared_rig() -> Iterator[Rig]:
    with relay_rig() as rig:
        yield rig


@pytest.fixture
def rig(shared_rig: Rig) -> Rig:
    assert shared_rig.relay.run(left_behind) == []
    return shared_rig


@pytest.fixture(params=BACKENDS)
def run(rig: Rig, request: pytest.FixtureRequest) -> Run:
    """`run_on` for each back end."""
    return partial(run_on, rig, request.param)
