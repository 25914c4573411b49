"""Every check of `ztna verify` as a test of its own, driven by the stack's outputs and nothing else."""

from collections.abc import Callable

import pytest

from infra.verify.context import Context
from infra.verify.model import Check, Status
from infra.verify.runner import run_check


@pytest.mark.timeout(300)
def test_check(check: Check, stack: Context, record_property: Callable[[str, object], None]) -> None:
    found = run_check(check, stack)
    result = found.result
    record_property("measured", result.measured)
    print(f"{check.title}: {result.measured} (expected {result.expected}) {result.detail}")
    assert result.status in (Status.PASSED, Status.NOT_SHOWN), f"{result.measured}; {result.detail}"
