"""Checks that what must not work does not: unknown services and addresses, a connector without the grant.

Each starts a second process with an identity from the stack's outputs, next to the one that runs, and sees it refused.
"""

import contextlib
import json
import re
import socket
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address

from infra import ports
from infra.verify.context import Background, Context, Json, VerifyError, private_file, wait_until
from infra.verify.model import Result, judged, not_shown
from infra.verify.status import DENIED, REGISTERED, RoleStatus, read_status

UNKNOWN_SERVICE = "no-such-service"
_REFUSAL_LIMIT_S = 30.0


def unknown_service(context: Context) -> Result:
    """The agent's own identity is refused for a service that the stack does not have."""
    if not context.agent.profile:
        return not_shown("the outputs were read without secrets, so there is no agent profile to ask with")
    forward = {"protocol": "tcp", "listen": f"127.0.0.1:{_free_tcp_port()}", "service": UNKNOWN_SERVICE, "port": 80}
    asked: Json = {
        "services": [{"id": UNKNOWN_SERVICE, "virtual_ip": _unused_address(context)}],
        "mode": "user",
        "forwards": [forward],
        "dns": None,
    }
    profile: Json = json.loads(context.agent.profile) | asked
    with second_role(context, "agent", context.agent_place, profile) as pages:
        seen = pages.until(lambda status: status.services.get(UNKNOWN_SERVICE) == DENIED)
    state = seen.services.get(UNKNOWN_SERVICE, "absent") if seen else "no status page"
    return judged(state == DENIED, f"{UNKNOWN_SERVICE}: {state}", f"{UNKNOWN_SERVICE}: {DENIED}", _said(pages, state))


def unknown_address(context: Context) -> Result:
    """Packets to an address in the service range which no service has are answered by nothing."""
    if context.agent.mode == "user":
        return not_shown("user mode has forwards for known services only, so no other address can be asked for")
    address = _unused_address(context)
    seen = context.probe(
        context.agent_place, "udp-echo", "--target", f"{address}:{ports.ECHO}", "--sizes", "64", "--count", 3,
        "--timeout-s", 0.3,
    )  # fmt: skip
    tcp = context.probe(
        context.agent_place, "tcp-refused", "--target", f"{address}:{ports.HTTP}", "--timeout-s", 1.2, timeout_s=10
    )
    passed = seen["equal"] == 0 and seen["altered"] == 0 and tcp["outcome"] != "connected"
    measured = f"{seen['equal'] + seen['altered']} of {seen['sent']} packets answered, TCP {tcp['outcome']}"
    return judged(passed, measured, f"0 answered, TCP not connected ({address} is no service)")


def foreign_connector(context: Context) -> Result:
    """A connector with a valid certificate but without the grant is refused; the first keeps serving meanwhile."""
    service = context.echo_service
    profile_text = next((text for name, text in context.outputs.probes.items() if "connector" in name), None)
    if profile_text is None:
        return not_shown("the outputs hold no profile of a second connector (they were read without secrets?)")
    target = context.target(service, "udp", ports.ECHO) if service else None
    if service is None or target is None:
        return not_shown(f"the agent reaches no echo service on UDP port {ports.ECHO}")
    profile: Json = json.loads(profile_text)
    wanted = [str(entry["id"]) for entry in profile["services"]]
    watch = context.start_probe(context.agent_place, "udp-watch", "--target", target, "--seconds", 4)
    try:
        with second_role(context, "connector", context.connector_place, profile) as pages:
            seen = pages.until(lambda status: set(wanted) <= set(status.in_state(DENIED)))
        traffic = watch.result(30.0)
    finally:
        watch.stop()
    states = {name: seen.services.get(name, "absent") if seen else "no status page" for name in wanted}
    answered = 100 * traffic["received"] / max(traffic["sent"], 1)
    first = read_status(context.status(context.connector_place))
    needed = 99.0 if not context.has_loss else 50.0
    passed = set(states.values()) == {DENIED} and answered >= needed and set(first.in_state(REGISTERED)) >= {service.id}
    measured = ", ".join(f"{name}: {state}" for name, state in states.items())
    measured += f"; meanwhile {answered:.1f} % of {traffic['sent']} echoes through the first"
    expected = f"every service {DENIED}; at least {needed:g} % of the echoes through the first connector"
    return judged(passed, measured, expected, _said(pages, "" if seen else "silent"))


class Pages:
    """The status page of a second role, asked until it says what is waited for."""

    def __init__(self, context: Context, place: str, port: int, process: Background) -> None:
        self._context, self._place, self._port, self._process = context, place, port, process
        self.output = ""

    def until(self, condition: Callable[[RoleStatus], bool]) -> RoleStatus | None:
        """The status that met `condition`, the last one seen when none did in time, None without any page."""
        last: RoleStatus | None = None

        def met() -> bool:
            nonlocal last
            page = self._context.page(self._place, f"http://127.0.0.1:{self._port}/status")
            if isinstance(page.get("json"), dict):
                last = read_status(page["json"])
                return condition(last)
            if self._process.process.poll() is not None:
                raise VerifyError(f"the second role ended at once: {' '.join(self._process.stop())[-300:].strip()}")
            return False

        wait_until(met, _REFUSAL_LIMIT_S)
        return last


@contextlib.contextmanager
def second_role(context: Context, role: str, place: str, profile: Json) -> Iterator[Pages]:
    """Run a role in a place beside the one that runs there, on ports of its own, and stop it again."""
    port = _free_tcp_port()
    profile = profile | {"metrics_addr": "127.0.0.1", "metrics_port": port}
    if role == "connector":
        profile["p2p"] = {**(profile.get("p2p") or {}), "port": 0}
    path = private_file(json.dumps(profile))
    try:
        argv = context.argv(place, (context.python, "-m", "ztna", role, "--config", str(path)))
        process = context.start(argv)
        pages = Pages(context, place, port, process)
        try:
            yield pages
        finally:
            pages.output = "\n".join(process.stop())
    finally:
        path.unlink(missing_ok=True)


def _free_tcp_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def _unused_address(context: Context) -> str:
    """An address of the same /24 as the services that none of them and no agent has."""
    used = {service.virtual_ip for service in context.outputs.services}
    used |= {agent.virtual_ip for agent in context.outputs.agents}
    first = int(IPv4Address(context.outputs.services[0].virtual_ip)) & ~0xFF
    return next(
        str(IPv4Address(first + offset)) for offset in range(250, 1, -1) if str(IPv4Address(first + offset)) not in used
    )


def _said(pages: Pages, problem: str) -> str:
    """The last words of the second role when it did not behave, without what may be a key."""
    if problem in ("", DENIED):
        return ""
    return re.sub(r"-----BEGIN.*?-----END[^-]*-----", "[PEM]", pages.output, flags=re.DOTALL)[-400:].strip()
