"""The relay's public address, which outlives every droplet, and its name in DNS."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import pulumi
import pulumi_digitalocean as digitalocean

from infra import naming
from infra.config_do import DnsSettings

TTL_S: Final = 300
"""Of the record. It points to the reserved address, so a replaced droplet does not change it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DoAddressArgs:
    """Where the address is reserved.

    Attributes:
        region: slug; a droplet elsewhere cannot have the address.
        dns: names that point to it, in domains that the account holds; the first is the one that agents dial.
    """

    region: str
    dns: Sequence[DnsSettings] = ()


class DoAddress(pulumi.ComponentResource):
    """A reserved IPv4 address and the A records that point to it.

    Children: ReservedIp x 1, DnsRecord x one per name. Outputs: `address`, `host` (the first name, else the address).
    It assigns the address to no droplet: DoCutover does, when the droplet is ready for it. It makes no domain.

    Source: https://www.pulumi.com/registry/packages/digitalocean/api-docs/reservedip/
    """

    address: pulumi.Output[str]
    host: pulumi.Output[str]

    def __init__(self, name: str, args: DoAddressArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(naming.component_token("DoAddress"), name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)
        reserved = digitalocean.ReservedIp(naming.child_name(name, "reserved"), region=args.region, opts=child)
        for index, dns in enumerate(args.dns):
            digitalocean.DnsRecord(
                naming.child_name(name, f"record-{index}"),
                domain=dns.domain,
                name=dns.name,
                type=digitalocean.RecordType.A,
                value=reserved.ip_address,
                ttl=TTL_S,
                opts=child,
            )
        names = [dns.fqdn for dns in args.dns]
        self.address = reserved.ip_address
        self.host = self.address.apply(lambda address: [*names, address][0])
        self.register_outputs({"address": self.address, "host": self.host})
