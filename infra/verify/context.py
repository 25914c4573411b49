"""How checks reach a stack: probes run in its places, pages of its roles, the addresses its services have there.

Nothing here knows how a place is made: a prefix executes commands there, and the stack's outputs give it.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from infra import ports
from infra.outputs import AgentOutput, ConnectorOutput, ExpectedPath, Place, ServiceOutput, StackOutputs

Json = dict[str, Any]
T = TypeVar("T")


class VerifyError(Exception):
    """A check could not be carried out: a command in a place failed, or the outputs lack what it needs."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that has ended."""

    code: int
    out: str
    err: str


Runner = Callable[[Sequence[str], float, str | None], Finished]
"""Runs argv with a time limit in seconds and a text for its standard input."""


def run_command(argv: Sequence[str], timeout_s: float, stdin: str | None = None) -> Finished:
    """Run a command. Raises VerifyError when it cannot be started or does not end in time."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout_s, input=stdin or "", check=False)
    except subprocess.TimeoutExpired:
        raise VerifyError(f"no end after {timeout_s:g} s: {' '.join(argv)}") from None
    except OSError as error:
        raise VerifyError(f"cannot start {argv[0]}: {error}") from error
    return Finished(done.returncode, done.stdout, done.stderr)


@dataclass(slots=True)
class Background:
    """A probe that is still running; `result` waits for it."""

    process: subprocess.Popen[str]
    argv: tuple[str, ...]

    def result(self, timeout_s: float) -> Json:
        try:
            out, err = self.process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.stop()
            raise VerifyError(f"no end after {timeout_s:g} s: {' '.join(self.argv)}") from None
        return parse_probe(Finished(self.process.returncode, out, err), self.argv)

    def stop(self) -> tuple[str, str]:
        """End it if it still runs; what it wrote."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.communicate()


def parse_probe(done: Finished, argv: Sequence[str]) -> Json:
    """The JSON object a probe printed. Raises VerifyError with its own words when it could not run."""
    try:
        value = json.loads(done.out)
    except ValueError:
        said = (done.err or done.out).strip().splitlines()
        raise VerifyError(f"exit {done.code} of {' '.join(argv)}: {said[-1] if said else 'no output'}") from None
    if not isinstance(value, dict):
        raise VerifyError(f"{' '.join(argv)} printed no JSON object")
    if "error" in value and done.code != 0:
        raise VerifyError(f"{' '.join(argv)}: {value['error']}")
    return value


@dataclass(slots=True)
class Context:
    """One stack under verification. `quick` shortens measurements; `runner` is replaced by tests."""

    outputs: StackOutputs
    quick: bool = False
    runner: Runner = run_command
    python: str = sys.executable
    notes: dict[str, Any] = field(default_factory=dict)

    # -- who is asked -------------------------------------------------------------------------------------------
    @property
    def agent(self) -> AgentOutput:
        return _first(self.outputs.agents, "agent")

    @property
    def connector(self) -> ConnectorOutput:
        return _first(self.outputs.connectors, "connector")

    @property
    def agent_place(self) -> str:
        return self.agent.place or self._place_of_kind("agent")

    @property
    def connector_place(self) -> str:
        return self.connector.place or self._place_of_kind("connector")

    @property
    def relay_place(self) -> str:
        relay = _first(self.outputs.relays, "relay")
        return relay.place or self._place_of_kind("intermediate")

    def _place_of_kind(self, kind: str) -> str:
        for name, place in self.outputs.places.items():
            if place.kind == kind:
                return name
        raise VerifyError(f"the stack's outputs name no place of kind {kind!r}")

    def find_place(self, kind: str) -> str | None:
        """The first place of a kind, None when the stack has none."""
        return next((name for name, place in self.outputs.places.items() if place.kind == kind), None)

    @property
    def expected_path(self) -> ExpectedPath | None:
        """The path that the stack promises between its first agent and connector."""
        wanted = (self.agent.name, self.connector.name)
        return next((path for path in self.outputs.expected_paths if (path.agent, path.connector) == wanted), None)

    @property
    def shares_one_namespace(self) -> bool:
        """True on the loopback rung: every place has the same addresses, counters and NAT-less network."""
        return self.outputs.rung == "loopback"

    @property
    def has_loss(self) -> bool:
        """True when the stack asked for packet loss on any link, so that single packets may be lost."""
        return _any_number(self.outputs.topology, "loss")

    @property
    def has_shaping(self) -> bool:
        """True when any link is delayed or limited in rate: absolute figures say nothing then."""
        return any(_any_number(self.outputs.topology, key) for key in ("loss", "delay_ms", "rate_bps", "jitter_ms"))

    # -- addresses ----------------------------------------------------------------------------------------------
    def service_on(self, protocol: str, port: int) -> ServiceOutput | None:
        """The first service of the agent that answers on this port."""
        for service in self.outputs.services:
            if service.id in self.agent.services and any(
                entry.protocol == protocol and entry.port == port for entry in service.ports
            ):
                return service
        return None

    @property
    def echo_service(self) -> ServiceOutput | None:
        return self.service_on("udp", ports.ECHO)

    @property
    def http_service(self) -> ServiceOutput | None:
        return self.service_on("tcp", ports.HTTP)

    def target(self, service: ServiceOutput, protocol: str, port: int) -> str | None:
        """`host:port` at which the agent's place reaches this port; None in user mode without such a forward."""
        if self.agent.mode == "user":
            return self.agent.forwards.get(f"{service.id}/{protocol}/{port}")
        return f"{service.virtual_ip}:{port}"

    def untunnelled(self, service: ServiceOutput, protocol: str) -> str | None:
        """`host:port` of the same kind of service without the overlay; None when the stack has no baseline."""
        prefix = f"{protocol}:"
        return next((entry.removeprefix(prefix) for entry in service.untunnelled if entry.startswith(prefix)), None)

    # -- commands -----------------------------------------------------------------------------------------------
    def place(self, name: str) -> Place:
        return self.outputs.place(name)

    def argv(self, place: str, command: Sequence[str]) -> tuple[str, ...]:
        """`command` as it is run in `place`."""
        return (*self.place(place).exec, *command)

    def run(self, place: str, command: Sequence[str], timeout_s: float = 30.0, stdin: str | None = None) -> Finished:
        """Run a command in a place."""
        return self.runner(self.argv(place, command), timeout_s, stdin)

    def _probe_argv(self, place: str, arguments: Sequence[object]) -> tuple[str, ...]:
        return self.argv(place, (self.python, "-m", "infra.verify.probe", *map(str, arguments)))

    def probe(self, place: str, *arguments: object, timeout_s: float = 60.0) -> Json:
        """Run a probe in a place and return its JSON object."""
        argv = self._probe_argv(place, arguments)
        return parse_probe(self.runner(argv, timeout_s, None), argv)

    def start_probe(self, place: str, *arguments: object) -> Background:
        """Start a probe in a place and leave it running."""
        return self.start(self._probe_argv(place, arguments))

    def start(self, argv: tuple[str, ...]) -> Background:
        """Start a command as it stands; the caller stops it."""
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        return Background(process, argv)

    def page(self, place: str, url: str) -> Json:
        """GET a page from inside a place: {"status": code or 0, "json": ...}."""
        return self.probe(place, "get-json", "--url", url)

    def status(self, place: str) -> Json:
        """The role's /status page. Raises VerifyError when the place has none or it does not answer."""
        url = self.place(place).status_url
        if not url:
            raise VerifyError(f"the outputs give no status_url for place {place!r}")
        page = self.page(place, url)
        if not isinstance(page.get("json"), dict):
            raise VerifyError(
                f"{url} in place {place!r} answers {page.get('status')}: {page.get('failure', 'no JSON')}"
            )
        status: Json = page["json"]
        return status

    def control(self, place: str, verb: str) -> None:
        """Start, stop, kill or restart a place's process. Raises VerifyError when that fails."""
        argv = self.place(place).controls.get(verb)
        if not argv:
            raise VerifyError(f"the outputs give no {verb!r} control for place {place!r}")
        done = self.runner(argv, 30.0, None)
        if done.code:
            raise VerifyError(f"{verb} of {place!r} failed: {(done.err or done.out).strip()[-300:]}")

    def has_control(self, place: str, verb: str) -> bool:
        return bool(self.place(place).controls.get(verb))


def wait_until(condition: Callable[[], bool], timeout_s: float, interval_s: float = 0.2) -> float | None:
    """Seconds until `condition` held, None when it did not within `timeout_s`."""
    started = time.monotonic()
    while (elapsed := time.monotonic() - started) < timeout_s:
        if condition():
            return elapsed
        time.sleep(interval_s)
    return None


def private_file(text: str, suffix: str = ".json") -> Path:
    """A file only this user may read, holding `text`; the caller unlinks it."""
    with tempfile.NamedTemporaryFile("w", suffix=suffix, prefix="ztna-verify-", delete=False) as file:  # mode 0600
        file.write(text)
    return Path(file.name)


def _first(items: Sequence[T], what: str) -> T:
    if not items:
        raise VerifyError(f"the stack's outputs name no {what}")
    return items[0]


def _any_number(value: Any, key: str) -> bool:
    """True when any mapping inside `value` has a number above 0 under `key`."""
    if isinstance(value, dict):
        found = value.get(key)
        if isinstance(found, (int, float)) and found > 0:
            return True
        return any(_any_number(item, key) for item in value.values())
    return isinstance(value, (list, tuple)) and any(_any_number(item, key) for item in value)
