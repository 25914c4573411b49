"""Our software on a host of the cloud: released over SSH, kept as declared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi

from components.host_release import HostRelease, HostReleaseArgs, SshTarget
from infra import naming
from infra.bundle import Target
from infra.units import Unit

__all__ = ["RelayHost", "RelayHostArgs", "SshTarget"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RelayHostArgs:
    """What runs on a host.

    Attributes:
        machine: the provider's id of the machine (droplet or instance id): another machine is trusted anew, by its
            bootstrap key, and is released to anew, also when it has taken over the address of the old one.
        ssh: how to reach it.
        target: which interpreter and platform its image has.
        units: the services, in the order in which they are started.
        files: role -> file name -> text, put into `/etc/ztna/ROLE/`; `{dir}` in a text becomes that path. Secret.
        ready: URLs that answer well on the host once the release is usable (infra/units.py READY).
        sysctls: kernel settings that the host must have at least.
        depends: what must be there before it, like its firewall and its address.
    """

    stack: str
    run: str
    machine: pulumi.Input[str]
    ssh: SshTarget
    target: Target
    units: tuple[Unit, ...]
    files: Mapping[str, pulumi.Input[Mapping[str, str]]]
    ready: tuple[str, ...]
    sysctls: Mapping[str, int] | None = None
    depends: Sequence[pulumi.Resource] = ()


class RelayHost(pulumi.ComponentResource):
    """The release on a host: code, units, configuration and certificates, switched as one.

    Children: HostRelease x 1. Outputs: `release_id` (of the code), `status`. It makes neither the machine, nor its
    keys, nor its firewall.
    """

    release_id: pulumi.Output[str]
    status: pulumi.Output[str]

    def __init__(self, name: str, args: RelayHostArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(naming.component_token("RelayHost"), name, {}, opts)
        release = HostRelease(
            naming.child_name(name, "release"),
            HostReleaseArgs(
                name=name,
                stack=args.stack,
                run=args.run,
                machine=args.machine,
                ssh=args.ssh,
                target=args.target,
                units=args.units,
                files=args.files,
                ready=args.ready,
                sysctls=args.sysctls,
            ),
            pulumi.ResourceOptions(parent=self, depends_on=list(args.depends)),
        )
        self.release_id = release.release_id
        self.status = release.status
        self.register_outputs({"release_id": self.release_id, "status": self.status})
