"""A stack's promises held against its twin, from its outputs alone: what answers from where, and agents behind NATs.

reach-PLACE      every promised port, and one that nobody promised, from each client network and the administrator's
unit-PLACE       the units of its hosts, asked over SSH from the administrator's
PLACE-...        the stack's agent run in a client network: registration, observed address, services, path
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from infra import ports
from infra.lab import state
from infra.lab.nat import PRESETS
from infra.outputs import ExpectedPath, NatOutput, Place, StackOutputs
from infra.twin import k8s_cluster, world
from infra.twin.interface import Json
from infra.twin.site import Site
from infra.twin.world import ClientNetwork
from infra.verify import checks, hosts
from infra.verify.context import Context, VerifyError, wait_until
from infra.verify.model import Check, CheckResult, Report, Result, Status, judged, not_shown
from infra.verify.reach import Source, reach
from infra.verify.runner import conditions, run_check

READY_S: Final = 30.0
SETTLE_S: Final = 15.0
AGENT: Final = "agent"
SESSION_PATH: Final = {"relayed": "relay"}
"""Words of the predictor, and what a session calls the same."""
PATH: Final = "path"
OF_AGENT: Final = ("agent-registered", "agent-observed", "udp-echo", "tcp-echo", "ping", "http-get", "http-post")
REGISTERED: Final = "agent-registered"
NOT_READY: Final = Result(Status.ERROR, "could not run", "-", "the agent is not ready, see its registration")
QUICK_CLIENTS: Final = ("cafe", k8s_cluster.LAPTOP)
"""The network that asks most of a stack and still lets UDP out: what its symmetric NAT lets open, all others do."""
OnResult = Callable[[CheckResult], None]


def verify(site: Site, outputs: StackOutputs, *, quick: bool, on_result: OnResult, only: Sequence[str] = ()) -> Report:
    """Run all of it, agents one client network after another: there is one identity of each.

    Args:
        site: the stack's world.
        outputs: with secrets.
        quick: one client network, and the administrator's.
        on_result: gets each result.
        only: ids of results, such as `reach-cafe` or `cafe-path`; all when empty.

    Raises:
        ValueError: `only` has an id of no result.
    """
    began, started_at = time.monotonic(), time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    results: list[CheckResult] = []

    def add(result: CheckResult) -> None:
        results.append(result)
        on_result(result)

    at_home = k8s_cluster.clients(site)
    clients = [client for client in at_home or world.CLIENTS if not quick or client.name in QUICK_CLIENTS]
    # What is on a home's LAN is nobody's outside of it, the administrator's neither.
    places = [(Source(
        name=world.ADMIN, prefix=site.inside(world.ADMIN), address=world.ADMIN_ADDRESS, admin=not at_home,
        udp=not at_home,
    ), "the internet" if at_home else "the administrator's")]  # fmt: skip
    for client in clients:
        levels = PRESETS[client.preset]
        there = Source(
            name=client.name,
            prefix=site.inside(client.name),
            address=client.core if levels else client.host_address,
            udp=not any(level.udp_blocked for level in levels),
        )
        places.append((there, f"{client.name} ({client.preset})"))
    units = hosts.checks(outputs)
    known = [*(check.id for check in units), *(f"reach-{place[0].name}" for place in places)]
    known += [f"{client.name}-{name}" for client in clients for name in (*OF_AGENT, PATH)]
    if unknown := set(only) - set(known):
        raise ValueError(f"no check {', '.join(sorted(unknown))}; there are: {', '.join(known)}")
    wanted = frozenset(only or known)

    def asked(place: tuple[Source, str]) -> CheckResult:
        run = partial(reach, outputs, place[0])
        return _run(f"reach-{place[0].name}", f"Ports from {place[1]}", outputs, run)

    with ThreadPoolExecutor(len(places) + len(units)) as pool:
        asked_of_hosts = [pool.submit(run_check, check, Context(outputs)) for check in units if check.id in wanted]
        for result in [future.result() for future in asked_of_hosts]:
            add(result)
        for result in pool.map(asked, [place for place in places if f"reach-{place[0].name}" in wanted]):
            add(result)
    for client in clients:
        for result in agent_results(site, outputs, client, wanted):
            add(result)
    return Report(
        stack=outputs.stack, run=outputs.run, started_at=started_at, seconds=time.monotonic() - began,
        conditions=conditions(outputs), services=(), results=tuple(results), limits=outputs.limits,
    )  # fmt: skip


def _run(id_: str, title: str, outputs: StackOutputs, run: Callable[[], Result]) -> CheckResult:
    return run_check(Check(id_, title, lambda _: run(), needs_path=False), Context(outputs))


def agent_results(
    site: Site, outputs: StackOutputs, client: ClientNetwork, wanted: frozenset[str]
) -> Iterator[CheckResult]:
    """Yield the wanted results of the stack's first agent, run in a client network if there are any."""
    path_id = f"{client.name}-{PATH}"
    asked = [check for check in checks.select(OF_AGENT) if f"{client.name}-{check.id}" in wanted]
    if not asked and path_id not in wanted:
        return
    there = at_client(site, outputs, client)
    context = Context(there, quick=True)
    promised = there.expected_paths[0] if there.expected_paths else None

    def title(text: str) -> str:
        return f"{text} from {client.name} ({client.preset})"

    with running_agent(site, there, client):
        if promised is None or promised.path != "none":
            wait_until(lambda: _status(context).get("state") == "ready", READY_S)
        if promised is not None and promised.path == "none":
            yield _run(path_id, title("No path"), there, partial(_no_path, context, promised))
            return
        ready = _status(context).get("state") == "ready"
        for check in asked:
            named = replace(check, id=f"{client.name}-{check.id}", title=title(check.title))
            if not ready and check.id != REGISTERED:
                yield CheckResult(named.id, named.title, NOT_READY, 0.0)
                continue
            yield run_check(named, context)
        if path_id in wanted:
            yield _run(path_id, title("Path"), there, partial(_path, context, promised))


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
        kind="agent",
        address=client.host_address,
        exec=site.lab.exec_prefix(client.name),
        logs={AGENT: str(_log(site, client))},
        status_url=url,
        nat=nat,
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


def _log(site: Site, client: ClientNetwork) -> Path:
    return state.run_dir(site.run) / "log" / f"{client.name}-{AGENT}.log"


@contextmanager
def running_agent(site: Site, outputs: StackOutputs, client: ClientNetwork) -> Iterator[None]:
    """Run the agent in a client network for the while of it."""
    log = _log(site, client)
    log.unlink(missing_ok=True)  # what is said of a failure must be of this run
    profile = log.with_suffix(".json")
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
    return judged(took is not None, found, f"{promised.path} ({promised.reason})", _why_not(promised, paths()))


def _why_not(promised: ExpectedPath, found: set[str]) -> str:
    """Return what most likely keeps sessions from the promised path; nothing where there is no session to speak of."""
    if promised.path == "direct" and found == {"relay"}:
        return (
            f"packets go by the relay, though {promised.reason.rstrip('.')}: UDP {ports.CONNECTOR_UDP} is closed on "
            "the way to the connector; does the firewall let it in?"
        )
    return ""


def _no_path(context: Context, promised: ExpectedPath) -> Result:
    """Nothing reaches the relay: the agent never becomes ready."""
    took = wait_until(lambda: _status(context).get("state") == "ready", SETTLE_S)
    return judged(took is None, "ready" if took is not None else "none", f"none ({promised.reason})")
