"""A stage: real roles in a lab of a scenario's own, exported as a stack, and the `ztna` command that asks about it.

The stack is one of a small project beside the roles' files, whose program exports where everything is. So `ztna why`
and `ztna prove` run here as their users run them: processes of their own that know the stack by its outputs alone.
"""

import itertools
import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec

from infra.lab.topology import Host, Router
from infra.outputs import NatOutput, Place, StackOutputs, to_exports
from infra.verify.sessions import SessionRecord
from tests.lab.matrix.worlds import AGENT, CONNECTOR
from tests.support.session_bed import RELAY, ROOT, SessionBed, SessionBedSpec, run_name, service_of, until

STACK: Final = "stage"
SERVICE: Final = service_of(CONNECTOR)
COMMAND_S: Final = 240.0
ZTNA: Final = str(Path(sys.executable).with_name("ztna"))
_NUMBERS: Final = itertools.count(1)
_PROGRAM: Final = """\
import json
from pathlib import Path

import pulumi

for key, value in json.loads(Path("outputs.json").read_text()).items():
    pulumi.export(key, value)
"""


@dataclass(frozen=True, slots=True)
class Said:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The object it printed."""
        value: dict[str, Any] = json.loads(self.out)
        return value

    @property
    def lines(self) -> list[str]:
        """What it printed, line by line, without the space around."""
        return [line.strip() for line in self.out.splitlines()]


class Stage:
    """A bed of one agent and one connector that is a stack; a context manager. Roles are started by the caller."""

    def __init__(self, directory: Path, spec: SessionBedSpec) -> None:
        self.bed = SessionBed(run_name(f"stage{next(_NUMBERS)}"), directory / "bed", spec)
        self._topology = spec.topology
        self._project = directory / "project"

    def __enter__(self) -> "Stage":
        self.bed.__enter__()
        try:
            self._export()
        except BaseException:
            self.bed.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        self.bed.__exit__(*error)

    # -- the stack ----------------------------------------------------------------------------------------------

    def _export(self) -> None:
        self._project.mkdir(parents=True)
        (self._project / ".venv").symlink_to(Path(sys.prefix))
        shutil.copy(ROOT / "Pulumi.yaml", self._project)
        (self._project / f"Pulumi.{STACK}.yaml").write_text("config: {}\n")
        (self._project / "__main__.py").write_text(_PROGRAM)
        (self._project / "outputs.json").write_text(json.dumps(to_exports(self._outputs())))
        done = self.ztna("up", "--yes")
        assert done.code == 0, done

    def _outputs(self) -> StackOutputs:
        bed, lab = self.bed, self.bed.lab
        nats = {
            router.name: Place(kind="nat", address=router.outside.ip, exec=lab.exec_prefix(router.name))
            for router in self._topology.routers
            if router.nat
        }
        hosts = {host.name: host for host in self._topology.hosts}
        roles = {name: self._place(hosts[name]) for name in (RELAY, AGENT, CONNECTOR)}
        return StackOutputs(
            stack=STACK,
            run=bed.lab.run_name,
            rung=lab.rung.value,
            relays=(replace(bed.relay_endpoint(), place=RELAY),),
            connectors=(replace(bed.connector_output(CONNECTOR), place=CONNECTOR),),
            services=tuple(bed.service_outputs()),
            agents=(replace(bed.agent_output(AGENT), place=AGENT),),
            places={**roles, **nats},
            ca_pem=bed.ca.cert_pem,
            topology=self._topology.to_spec(),
        )

    def _place(self, host: Host) -> Place:
        bed, name = self.bed, host.name
        router = self._router_of(host)
        return Place(
            kind=bed.role_of(name),  # type: ignore[arg-type]  # one of the three roles
            address=host.links[0].ip,
            exec=bed.lab.exec_prefix(name),
            status_url=bed.url(name),
            config_path=str(bed.config_path(name)) if name == RELAY else None,
            nat=self._nat(router) if router is not None and router.nat else None,
        )

    def _router_of(self, node: Host | Router) -> Router | None:
        """The router that a host or a router is behind."""
        segment = node.outside.segment if isinstance(node, Router) else node.links[0].segment
        inside = ((router, link.segment) for router in self._topology.routers for link in router.inside)
        return next((router for router, name in inside if name == segment), None)

    def _nat(self, router: Router) -> NatOutput:
        outermost = router
        while (further := self._router_of(outermost)) is not None:
            outermost = further
        level = router.nat[0]
        return NatOutput(
            name=router.name, mapping=level.mapping, filtering=level.filtering,
            public_address=outermost.outside.ip, udp_blocked=level.udp_blocked,
        )  # fmt: skip

    def ztna(self, command: str, *arguments: str) -> Said:
        """Run `ztna COMMAND --stack STAGE ...` in the project, as its user would."""
        done = subprocess.run(
            [ZTNA, command, "--stack", STACK, *arguments],
            cwd=self._project, capture_output=True, text=True, timeout=COMMAND_S, check=False,
        )  # fmt: skip
        return Said(done.returncode, done.stdout, done.stderr)

    def why(self, *arguments: str) -> Said:
        """`ztna why` about the one agent and the one service."""
        return self.ztna("why", AGENT, SERVICE, *arguments)

    def prove(self, *arguments: str) -> Said:
        """`ztna prove` of the one agent and the one service."""
        return self.ztna("prove", AGENT, SERVICE, *arguments)

    def evidence(self, name: str) -> dict[str, Any]:
        """A file that `ztna prove` kept."""
        folder = self._project / "build" / "reports" / STACK / f"proof-{AGENT}-{SERVICE}"
        value: dict[str, Any] = json.loads((folder / name).read_text())
        return value

    # -- the roles ----------------------------------------------------------------------------------------------

    def start(self, *hosts: str) -> None:
        """Start roles one after another, each ready before the next."""
        for host in hosts:
            self.bed.start_all([host])

    def start_tampered(self, host: str, *how: str) -> None:
        """Start a role from `tests.lab.scenarios.tampered` instead of `ztna`: the same but for what it says.

        Its log begins anew.
        """
        role = self.bed.role_of(host)
        argv = [sys.executable, "-m", "tests.lab.scenarios.tampered", ",".join(how)]
        argv += [role, "--config", str(self.bed.config_path(host))]
        log = self.bed.directory / f"{host}-{role}.log"
        log.unlink(missing_ok=True)
        self.bed.processes[f"{host}/{role}"] = self.bed.lab.spawn(host, role, argv, cwd=str(ROOT), log_path=log)
        self.bed.wait_ready(host)

    def stop(self, host: str) -> None:
        """Stop a role, if it was ever started."""
        if f"{host}/{self.bed.role_of(host)}" in self.bed.processes:
            self.bed.stop(host)

    def restart(self, *hosts: str) -> None:
        """Stop roles and start them again, as `ztna` has them."""
        for host in hosts:
            self.stop(host)
        self.start(*hosts)

    def change_router(self, name: str, **keys: Any) -> None:
        """Change a router; its NAT forgets all mappings."""
        router = next(router for router in self._topology.routers if router.name == name)
        self.bed.lab.ensure_router(msgspec.structs.replace(router, **keys))

    def nft(self, host: str, rules: str) -> None:
        """Change rules in a host or a router."""
        self.bed.lab.run(host, ["nft", rules])

    # -- looking ------------------------------------------------------------------------------------------------

    def ends(self) -> tuple[SessionRecord | None, SessionRecord | None]:
        """The session as agent and connector record it."""
        return self.bed.session(AGENT, CONNECTOR), self.bed.session(CONNECTOR, AGENT)

    def echo(self, count: int = 2) -> int:
        """Answered echoes through the service; the first packet makes the session."""
        found = self.bed.echoes(AGENT, [SERVICE], count=count, wait_s=0.3)
        return int(found[SERVICE]["answered"])

    def wait_path(self, path: str, timeout_s: float, *, only: str | None = None) -> None:
        """Wait until both ends, or one of them, say that they are on a path, with a few packets flowing."""

        def there() -> bool:
            answered = self.echo()
            ends = dict(zip((AGENT, CONNECTOR), self.ends(), strict=True))
            asked = ends.values() if only is None else [ends[only]]
            return bool(answered) and all(end is not None and end.path == path for end in asked)

        assert until(there, timeout_s, 0.2), f"no {path} path after {timeout_s:g} s: {self.ends()}"

    def hold(self, seconds: float) -> None:
        """Let time pass with packets flowing, as long as a wrong guess would need to be corrected."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.echo()
            time.sleep(0.2)
