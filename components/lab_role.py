"""A role of the overlay on a lab host: its files, its process, its readiness."""

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi

from components.lab_process import PYTHON, LabProcess, ProcessArgs
from components.lab_runtime import LabSite
from infra import naming
from infra.wiring import STATE_DIR

READY_TIMEOUT_S = 20.0


@dataclass(frozen=True, kw_only=True, slots=True)
class LabRoleArgs:
    """What a role is given.

    Attributes:
        role: intermediate, connector or agent.
        files: its files by name, `ROLE.json` among them.
        reload: names of files that it reads again on SIGHUP; another change restarts it.
        ready_url: what answers 200 once it is usable, asked from inside the host.
        release: the version of the overlay's code; another one restarts it.
        after: what must be there before it starts, its host among it.
    """

    site: LabSite
    host: str
    role: str
    files: Mapping[str, pulumi.Input[str]]
    release: str
    ready_url: str
    reload: tuple[str, ...] = ()
    after: tuple[pulumi.Resource, ...] = ()


class LabRole(pulumi.ComponentResource):
    """A role as a process on a host, run by `python -m ztna ROLE --config FILE`.

    Children: LabProcess x 1. Outputs: `host`. It makes neither the host nor the certificates.
    """

    host: pulumi.Output[str]

    def __init__(self, name: str, args: LabRoleArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(naming.component_token("LabRole"), name, {}, opts)
        LabProcess(
            naming.child_name(name, "process"),
            ProcessArgs(
                site=args.site,
                host=args.host,
                name=args.role,
                argv=(PYTHON, "-m", "ztna", args.role, "--config", f"{STATE_DIR}/{args.role}.json"),
                files=args.files,
                ready_url=args.ready_url,
                ready_timeout_s=READY_TIMEOUT_S,
                reload=args.reload,
                release=args.release,
            ),
            pulumi.ResourceOptions(parent=self, depends_on=list(args.after)),
        )
        self.host = pulumi.Output.from_input(args.host)
        self.register_outputs({"host": self.host})
