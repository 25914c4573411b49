"""What answers on a stack's public ports from a place, held against what its outputs promise."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from infra.outputs import StackOutputs
from infra.verify import reach_probe
from infra.verify.context import VerifyError, run_command
from infra.verify.model import Result, judged

CLOSED_TCP: Final = 8080
"""The test backend's own port: a promise of nobody, and what a firewall that lets all through would show."""
SSH: Final = 22
PROBE_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Expectation:
    """A target of the probe and what it should answer, `any` for an address."""

    kind: str
    host: str
    port: int
    answer: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where the ports are asked from.

    Attributes:
        name: of the place, as sentences call it.
        prefix: argv prefix that runs a command there; empty for here.
        address: what others see it come from; empty where that is not known.
        admin: whether it is in the administrators' network.
        udp: whether its own network lets UDP out.
        refusals: whether a refused connection is as good as none: a cloud may answer for a port that nobody has.
    """

    name: str
    prefix: Sequence[str] = ()
    address: str = ""
    admin: bool = False
    udp: bool = True
    refusals: bool = False


def expectations(outputs: StackOutputs, *, admin: bool, udp: bool) -> list[Expectation]:
    """Return what a place should see of a stack.

    Args:
        outputs: the stack's.
        admin: whether the place is in the administrators' network.
        udp: whether its own network lets UDP out.
    """
    found = []
    for relay in outputs.relays:
        found.append(Expectation("quic", relay.host, relay.port, "open" if udp else "filtered"))
        found.append(Expectation("large", relay.host, relay.port, "open" if udp else "filtered"))
        found.append(Expectation("stun", relay.host, relay.port, "any" if udp else "filtered"))
        if relay.alternate_port is not None:
            answer = "any" if udp else "filtered"
            found.append(Expectation("stun", relay.alternate_host or relay.host, relay.alternate_port, answer))
        found.append(Expectation("tcp", relay.host, CLOSED_TCP, "filtered"))
    ssh = "open" if admin else "filtered"
    return found + [Expectation("tcp", access.host, access.port, ssh) for access in outputs.ssh]


def reach(outputs: StackOutputs, source: Source) -> Result:
    """Hold what answers from a place against what should.

    Raises:
        VerifyError: the probe could not run there.
    """
    expected = expectations(outputs, admin=source.admin, udp=source.udp)
    asked = json.dumps([[item.kind, item.host, item.port] for item in expected])
    argv = [*source.prefix, sys.executable, "-I", "-S", str(reach_probe.__file__)]
    done = run_command(argv, PROBE_TIMEOUT_S, asked)
    if done.code != 0:
        raise VerifyError(f"the probe at {source.name} failed: {done.err.strip()[-300:]}")
    answers = dict(zip(expected, json.loads(done.out), strict=True))
    seen = [f"{item.kind} {item.host}:{item.port} {answer}" for item, answer in answers.items()]
    wrong = []
    for item, answer in answers.items():
        if item.kind == "large" and answers[replace(item, kind="quic")] == "filtered":
            continue  # nothing answers at all
        if sentence := _wrong(item, answer, source):
            wrong.append(sentence)
    return judged(not wrong, "; ".join(seen), f"{len(expected)} answers as promised", "; ".join(wrong))


def _wrong(item: Expectation, answer: str, source: Source) -> str:
    """Return what is wrong with an answer and why that may be; nothing if it is as it should be."""
    if item.answer == "any" and answer != "filtered":
        seen = answer.rpartition(":")[0]
        if not source.address or seen == source.address:
            return ""
        return f"{item.kind} {item.host}:{item.port} saw us come from {answer}, not from {source.address}"
    if answer == item.answer or (source.refusals and (item.answer, answer) == ("filtered", "refused")):
        return ""
    if item.kind == "large":
        return (
            f"packets of 1228 bytes from {source.name} are answered by {item.host} and those of 1400 are not: a link "
            "on the way has a smaller MTU and drops larger packets without a word (a black hole)"
        )
    what = f"{'UDP' if item.kind != 'tcp' else 'TCP'} {item.port} of {item.host}"
    if item.answer in ("open", "any"):
        return f"{what} is {answer} from {source.name} and should be open: does the firewall let it in, does it listen?"
    if answer == "open" and item.port == SSH:
        return (
            f"{what} is open from {source.name}, which is no administrator's network: the firewall has it open to all: "
            "who may open SSH is said by the firewall's rule for it"
        )
    return (
        f"{what} is {answer} from {source.name} and should be {item.answer}: who may reach it is said by the firewall"
    )
