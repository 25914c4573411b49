"""A held change is undone however its holder goes."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from infra.verify.context import VerifyError
from infra.verify.held import Held, NotUndone

HOLDER = """
import sys, time
from infra.verify.held import Held
with Held("a file", (), ("touch", sys.argv[1]), ("rm", sys.argv[1]), limit_s=60):
    print("held", flush=True)
    time.sleep(60)
"""


def held(path: Path, **options: float) -> Held:
    return Held("a file", (), ("touch", str(path)), ("rm", str(path)), limit_s=options.get("limit_s", 60))


def wait_gone(path: Path) -> None:
    deadline = time.monotonic() + 10
    while path.exists():
        assert time.monotonic() < deadline, "not undone"
        time.sleep(0.02)


def test_it_is_there_inside_and_gone_after(tmp_path: Path) -> None:
    path = tmp_path / "it's here"
    with held(path) as change:
        assert path.exists()
        assert abs(change.since - time.time()) < 5
    assert not path.exists()


def test_an_error_inside_undoes_it_too(tmp_path: Path) -> None:
    path = tmp_path / "change"
    with contextlib.suppress(ZeroDivisionError), held(path):
        1 / 0  # noqa: B018
    assert not path.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_it_is_undone_when_its_holder_is_ended(tmp_path: Path, number: int) -> None:
    path = tmp_path / "change"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    assert path.exists()
    os.kill(holder.pid, number)
    holder.communicate(timeout=20)
    wait_gone(path)


def test_it_is_undone_after_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "change"
    with contextlib.suppress(VerifyError), held(path, limit_s=0.2):
        wait_gone(path)


def test_a_change_that_fails_is_undone_and_says_why(tmp_path: Path) -> None:
    path = tmp_path / "change"
    path.touch()
    change = Held("the impossible", (), ("sh", "-c", "echo no way >&2; exit 3"), ("rm", str(path)), limit_s=60)
    with pytest.raises(VerifyError, match="the impossible: no way"), change:
        raise AssertionError("not reached")
    assert not path.exists()


def test_a_change_that_cannot_be_undone_is_an_error_of_its_own() -> None:
    change = Held("a change", (), ("true",), ("sh", "-c", "echo stuck >&2; exit 1"), limit_s=60)
    with pytest.raises(NotUndone, match="a change: stuck"), change:
        pass
