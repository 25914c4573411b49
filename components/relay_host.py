"""Our software on a host of the cloud: released over SSH, kept as declared."""

import pulumi

from components.host_release import HostRelease, RelayHostArgs, SshTarget
from infra import naming

__all__ = ["RelayHost", "RelayHostArgs", "SshTarget"]


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
            args,
            pulumi.ResourceOptions(parent=self, depends_on=list(args.depends)),
        )
        self.release_id = release.release_id
        self.status = release.status
        self.register_outputs({"release_id": self.release_id, "status": self.status})
