"""The package digitalocean of the twin."""

from typing import Final

from infra.twin.do_account import DnsRecord, Project, SshKey, Tag
from infra.twin.do_droplet import Droplet
from infra.twin.do_network import Firewall, ReservedIp, ReservedIpAssignment, Vpc
from infra.twin.provider import Package

PACKAGE: Final = Package(
    name="digitalocean",
    types=(Vpc(), Droplet(), ReservedIp(), ReservedIpAssignment(), SshKey(), Firewall(), Tag(), DnsRecord(), Project()),
    config=frozenset({"token"}),
)
