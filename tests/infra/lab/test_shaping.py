"""What netem is told, and that tc understands it (the kernel need not have netem for that)."""

import subprocess

import pytest

from infra.lab.errors import require_tool
from infra.lab.shaping import netem_arguments
from infra.lab.topology import Impairment

EVERYTHING = Impairment(delay_ms=10, jitter_ms=2.5, loss=0.03, reorder=0.25, duplicate=0.01, rate_bps=1_000_000)

SINGLE = (Impairment(loss=0.001), Impairment(reorder=0.1), Impairment(loss=0.12, loss_burst=8))


def test_each_impairment_has_its_words() -> None:
    words = " ".join(netem_arguments(EVERYTHING))
    assert words == "limit 18 delay 10ms 2.5ms loss 3% duplicate 1% reorder 25% rate 1000000bit"
    assert netem_arguments(Impairment(loss=0.001)) == ["limit", "20000", "loss", "0.1%"]


def test_bursts_of_loss_are_gilberts_model() -> None:
    words = " ".join(netem_arguments(Impairment(loss=0.2, loss_burst=4)))
    assert words == "limit 20000 loss gemodel 6.25% 25%"


def test_reordering_needs_something_to_overtake() -> None:
    assert "delay 1ms reorder 10%" in " ".join(netem_arguments(Impairment(reorder=0.1)))


@pytest.mark.lab
@pytest.mark.parametrize("impairment", [EVERYTHING, *SINGLE, Impairment()])
def test_tc_understands_every_word(impairment: Impairment) -> None:
    command = [require_tool("tc"), "qdisc", "replace", "dev", "lo", "root", "netem", *netem_arguments(impairment)]
    done = subprocess.run(["unshare", "-rn", *command], capture_output=True, text=True, check=False)
    # A kernel without netem refuses what tc has understood; tc's own complaints read otherwise.
    assert done.returncode == 0 or done.stderr.strip() == "Error: Specified qdisc kind is unknown."
