"""A stack's promises held against its twin, from its outputs alone: what answers from where, and agents behind NATs.

reach-PLACE      every promised port, and one that nobody promised, from each client network and the administrator's
PLACE-...        the stack's agent run in a client network: registration, observed address, services, path
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from infra import ports
from infra.lab import state
from infra.lab.nat import PRESETS
from infra.outputs import ExpectedPath, NatOutput, Place, StackOutputs
from infra.twin import k8s_cluster, reach_probe, world
from infra.twin.interface import Json
from infra.twin.site import Site
from infra.twin.world import ClientNetwork
from infra.verify import checks
from infra.verify.context import Context, VerifyError, run_command, wait_until
from infra.verify.model import Check, CheckResult, Report, Result, judged, not_shown
from infra.verify.runner import conditions, run_check

CLOSED_TCP: Final = 8080
"""The test backend's own port: a promise of nobody, and what a firewall that lets all through would show."""
PROBE_TIMEOUT_S: Final = 60.0
READY_S: Final = 30.0
SETTLE_S: Final = 15.0
AGENT: Final = "agent"
SESSION_PATH: Final = {"relayed": "relay"}
"""Words of the predictor, and what a session calls the same."""
OF_AGENT: Final = ("agent-registered", "agent-observed", "udp-echo", "tcp-echo", "ping", "http-get", "http-post")
QUICK_CLIENTS: Final = ("home", k8s_cluster.LAPTOP)
OnResult = Callable[[CheckResult], None]


@dataclass(frozen=True, slots=True)
class Expectation:
    """A target of the probe and what it should answer, `any` for an address."""

    kind: str
    host: str
    port: int
    answer: str


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
        found.append(Expectation("stun", relay.host, relay.port, "any" if udp else "filtered"))
        found.append(Expectation("tcp", relay.host, CLOSED_TCP, "filtered"))
    ssh = "open" if admin else "filtered"
    return found + [Expectation("tcp", access.host, access.port, ssh) for access in outputs.ssh]


def reach(site: Site, outputs: StackOutputs, place: str, source: str, *, admin: bool, udp: bool) -> Result:
    """Hold what answers from a place against what should; `source` is the address that it has on the internet."""
    expected = expectations(outputs, admin=admin, udp=udp)
    asked = json.dumps([[item.kind, item.host, item.port] for item in expected])
    argv = [*site.inside(place), sys.executable, "-I", "-S", str(reach_probe.__file__)]
    done = run_command(argv, PROBE_TIMEOUT_S, asked)
    if done.code != 0:
        raise VerifyError(f"the probe at {place} failed: {done.err.strip()[-300:]}")
    wrong, seen = [], []
    for item, answer in zip(expected, json.loads(done.out), strict=True):
        what = f"{item.kind} {item.host}:{item.port}"
        seen.append(f"{what} {answer}")
        if item.answer == "any":
            if answer.rpartition(":")[0] != source:
                wrong.append(f"{what} saw us come from {answer}, not from {source}")
        elif answer != item.answer:
            wrong.append(_sentence(item, answer, place))
    return judged(not wrong, "; ".join(seen), f"{len(expected)} answers as promised", "; ".join(wrong))


def _sentence(item: Expectation, answer: str, place: str) -> str:
    what = f"{'UDP' if item.kind != 'tcp' else 'TCP'} {item.port} of {item.host}"
    if item.answer == "open":
        return f"{what} is {answer} from {place} and should be open: does the firewall let it in, and does it listen?"
    return f"{what} is {answer} from {place} and should be {item.answer}: who may reach it is said by the firewall"


def verify(site: Site, outputs: StackOutputs, *, quick: bool, on_result: OnResult) -> Report:
    """Run all of it, agents one client network after another: there is one identity of each.

    Args:
        site: the stack's world.
        outputs: with secrets.
        quick: one client network, and the administrator's.
        on_result: gets each result.
    """
    began, started_at = time.monotonic(), time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    results: list[CheckResult] = []

    def add(result: CheckResult) -> None:
        results.append(result)
        on_result(result)

    at_home = k8s_cluster.clients(site)
    clients = [client for client in at_home or world.CLIENTS if not quick or client.name in QUICK_CLIENTS]
    places = [(world.ADMIN, "the administrator's", world.ADMIN_ADDRESS, True, True)]
    if at_home:
        # What is on a home's LAN is nobody's outside of it, the administrator's neither.
        places = [(world.ADMIN, "the internet", world.ADMIN_ADDRESS, False, False)]
    for client in clients:
        levels = PRESETS[client.preset]
        source, udp = client.core if levels else client.host_address, not any(level.udp_blocked for level in levels)
        places.append((client.name, f"{client.name} ({client.preset})", source, False, udp))
    for place, words, source, admin, udp in places:
        run = partial(reach, site, outputs, place, source, admin=admin, udp=udp)
        add(_run(f"reach-{place}", f"Ports from {words}", outputs, run))
    for client in clients:
        for result in agent_results(site, outputs, client):
            add(result)
    return Report(
        stack=outputs.stack, run=outputs.run, started_at=started_at, seconds=time.monotonic() - began,
        conditions=conditions(outputs), services=(), results=tuple(results), limits=outputs.limits,
    )  # fmt: skip


def _run(id_: str, title: str, outputs: StackOutputs, run: Callable[[], Result]) -> CheckResult:
    return run_check(Check(id_, title, lambda _: run(), needs_path=False), Context(outputs))


def agent_results(site: Site, outputs: StackOutputs, client: ClientNetwork) -> Iterator[CheckResult]:
    """Yield the results of the stack's first agent, run in a client network."""
    there = at_client(site, outputs, client)
    context = Context(there, quick=True)
    promised = there.expected_paths[0] if there.expected_paths else None

    def title(text: str) -> str:
        return f"{text} from {client.name} ({client.preset})"

    with running_agent(site, there, client):
        if promised is None or promised.path != "none":
            wait_until(lambda: _status(context).get("state") == "ready", READY_S)
        if promised is not None and promised.path == "none":
            yield _run(f"{client.name}-path", title("No path"), there, partial(_no_path, context, promised))
            return
        for check in checks.select(OF_AGENT):
            named = replace(check, id=f"{client.name}-{check.id}", title=title(check.title))
            yield run_check(named, context)
        yield _run(f"{client.name}-path", title("Path"), there, partial(_path, context, promised))


def at_client(site: Site, outputs: StackOutputs, client: ClientNetwork) -> StackOutputs:
    """Return the outputs with the first agent's place in a client network, and the path predicted for it there."""
    levels = PRESETS[client.preset]
    nat = None
    if levels:
        nat = NatOutput(
            name=client.preset,
            mapping=levels[-1].mapping.value,
            filtering=levels[-1].filtering.value,
            public_address=client.core,
            levels=len(levels),
            udp_blocked=any(level.udp_blocked for level in levels),
        )
    agent = outputs.agents[0]
    url = f"http://127.0.0.1:{ports.METRICS['agent']}/status"
    place = Place(
        kind="agent", address=client.host_address, exec=site.lab.exec_prefix(client.name), status_url=url, nat=nat
    )
    found = [item for item in outputs.expected_path if item.peer_nat == client.preset]
    paths = tuple(
        ExpectedPath(agent=agent.name, connector=item.connector, path=item.path, reason=item.reason)
        for item in found[:1]
    )
    return replace(
        outputs,
        agents=(replace(agent, place=client.name),),
        places={**outputs.places, client.name: place},
        expected_paths=paths,
    )


@contextmanager
def running_agent(site: Site, outputs: StackOutputs, client: ClientNetwork) -> Iterator[None]:
    """Run the agent in a client network for the while of it."""
    folder = state.run_dir(site.run) / "log"
    profile = folder / f"{client.name}-agent.json"
    profile.touch(mode=0o600)
    profile.write_text(outputs.agents[0].profile)
    argv = (sys.executable, "-m", "ztna", "agent", "--config", str(profile))
    site.lab.spawn(client.name, AGENT, argv, cwd=str(Path(__file__).resolve().parents[2]))
    try:
        yield
    finally:
        site.lab.remove_process(client.name, AGENT, grace_s=3.0)
        profile.unlink(missing_ok=True)


def _status(context: Context) -> Json:
    try:
        return context.status(context.agent_place)
    except VerifyError:
        return {}


def _path(context: Context, promised: ExpectedPath | None) -> Result:
    """The path that the agent's session is on, once it has settled."""
    if promised is None:
        return not_shown("the outputs predict no path for this kind of network")

    def paths() -> set[str]:
        sessions = _status(context).get("sessions")
        return {str(item.get("path")) for item in sessions} if isinstance(sessions, list) else set()

    wanted = SESSION_PATH.get(promised.path, promised.path)
    took = wait_until(lambda: paths() == {wanted}, SETTLE_S)
    found = ", ".join(sorted(paths())) or "no session"
    return judged(took is not None, found, f"{promised.path} ({promised.reason})")


def _no_path(context: Context, promised: ExpectedPath) -> Result:
    """Nothing reaches the relay: the agent never becomes ready."""
    took = wait_until(lambda: _status(context).get("state") == "ready", SETTLE_S)
    return judged(took is None, "ready" if took is not None else "none", f"none ({promised.reason})")
