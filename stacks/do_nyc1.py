"""The `do-nyc1` stack: relay, connector and test backend on one droplet, behind an address that outlives it."""

import pulumi

from components.do_address import DoAddress, DoAddressArgs
from components.do_cutover import DoCutover, DoCutoverArgs
from components.do_design import UNITS, design
from components.do_firewall import UDP_OPEN, DoFirewall, DoFirewallArgs
from components.do_network import DoNetwork, DoNetworkArgs
from components.do_relay import DoRelay, DoRelayArgs
from components.pki import Pki, PkiArgs
from components.relay_host import RelayHost, RelayHostArgs
from components.ssh_keys import SshKeys, SshKeysArgs
from infra.bundle import Target
from infra.config_do import do_config
from infra.outputs import StackOutputs


def program() -> pulumi.Output[StackOutputs]:
    """Declare the stack and return what it promises."""
    config = do_config(pulumi.Config("do-nyc1"))
    site = design(pulumi.get_stack(), config)
    overlay, stack, run = site.overlay, site.overlay.stack, site.overlay.run

    address = DoAddress("address", DoAddressArgs(region=config.region, dns=config.dns))
    network = DoNetwork("network", DoNetworkArgs(stack=stack, run=run, region=config.region, ip_range=config.vpc_range))
    keys = SshKeys("keys", SshKeysArgs(admin_public_keys=config.admin_keys))
    pki = Pki(
        "pki",
        PkiArgs(
            stack=stack,
            settings=overlay.settings.pki,
            relay_name=overlay.relay_name,
            server_name=overlay.server_name,
            addresses=[address.address],
            dns_names=site.dns_names,
            members=overlay.members(),
        ),
    )
    relay = DoRelay(
        "relay",
        DoRelayArgs(
            stack=stack,
            run=run,
            region=config.region,
            size=config.size,
            image=config.image,
            generation=config.host_generation,
            vpc_id=network.vpc_id,
            keys=keys,
            udp_ports=UDP_OPEN,
        ),
    )
    firewall = DoFirewall(
        "firewall",
        DoFirewallArgs(
            droplet_id=relay.droplet_id,
            admin_cidrs=config.admin_networks,
            vpc_range=config.vpc_range,
            tcp_out=config.backend_tcp_ports,
        ),
    )
    host = RelayHost(
        f"host-{config.host_generation}",
        RelayHostArgs(
            stack=stack,
            run=run,
            machine=relay.machine,
            ssh=relay.ssh,
            target=Target(python=config.host_python),
            units=UNITS,
            files=site.files(pki.files(overlay.relay_name), pki.files(overlay.connector_name), address.address),
            ready=site.ready,
            depends=(firewall,),
        ),
    )
    DoCutover("cutover", DoCutoverArgs(address=address.address, droplet_id=relay.droplet_id, after=(host,)))
    return site.exports(address=address, keys=keys, pki=pki)
