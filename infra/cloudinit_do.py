"""The first boot of a droplet: what every host gets, and answers that leave by the reserved address. Pure.

DigitalOcean rewrites the destination of what comes to a reserved address to the droplet's *anchor* address, a second
one of its public interface; only packets *from* the anchor address leave as the reserved one. A socket bound to all
addresses would answer from the droplet's own address, and the peer's NAT would drop the answer. So the ports of the
relay, and nothing else of the host, are routed with the anchor address as their source. The connector's socket keeps
the droplet's own address, which it finds on its interface and announces: answers must come from there.

Source: https://docs.digitalocean.com/products/networking/reserved-ips/how-to/find-anchor-ips/
"""

from collections.abc import Sequence
from typing import Final

import yaml

from infra import cloudinit, ports
from infra.cloudinit import HostKeys, HostSetup

SSH: Final = 22
ANCHORED: Final = (ports.QUIC,)
"""UDP ports that answer from the reserved address: the relay's."""
ANCHOR_SCRIPT: Final = "/usr/local/sbin/ztna-anchor-route"
ANCHOR_UNIT: Final = "ztna-anchor-route.service"
ROUTE_TABLE: Final = 4433
RULE_PRIORITY: Final = 1000
METADATA_URL: Final = "http://169.254.169.254"


def user_data(*, hostname: str, admin_public_keys: Sequence[str], host_keys: HostKeys, udp_ports: Sequence[int]) -> str:
    """Return the `#cloud-config` of a droplet. The host's own firewall admits SSH from anywhere, see DoRelay.

    Raises:
        ValueError: a name, key or port is unusable, or the text is too long.
    """
    setup = HostSetup(
        hostname=hostname,
        admin_public_keys=admin_public_keys,
        host_keys=host_keys,
        udp_ports=udp_ports,
        admin_cidrs=(),
        tcp_ports=(SSH,),
    )
    config = yaml.safe_load(cloudinit.user_data(setup))
    config["write_files"] += [
        _file(ANCHOR_SCRIPT, anchor_script(ANCHORED), "0755"),
        _file(f"/etc/systemd/system/{ANCHOR_UNIT}", anchor_unit()),
    ]
    config["runcmd"] += [["systemctl", "daemon-reload"], ["systemctl", "enable", "--now", ANCHOR_UNIT]]
    return cloudinit.HEADER + yaml.safe_dump(config, sort_keys=False, width=1000)


def anchor_script(udp_ports: Sequence[int]) -> str:
    """Return the script that routes these source ports with the anchor address as their source. Idempotent.

    `ZTNA_METADATA` in its environment stands in for the metadata service.
    """
    rules = "\n".join(
        f"while ip -4 rule del priority {RULE_PRIORITY + index} 2>/dev/null; do :; done\n"
        f"ip -4 rule add priority {RULE_PRIORITY + index} ipproto udp sport {port} lookup {ROUTE_TABLE}"
        for index, port in enumerate(sorted(udp_ports))
    )
    return f"""\
#!/bin/sh
# UDP of the relay leaves with the anchor address as its source, which is how it gets the reserved address.
set -eu
metadata=${{ZTNA_METADATA:-{METADATA_URL}}}
anchor=$(python3 -I -c 'import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=10).read().decode())' \\
    "$metadata/metadata/v1/interfaces/public/0/anchor_ipv4/address")
set -- $(ip -4 route show default | head -n 1)
[ "$1 $2 $4" = "default via dev" ] || {{ echo "unexpected default route: $*" >&2; exit 1; }}
ip -4 route replace table {ROUTE_TABLE} default via "$3" dev "$5" src "$anchor"
{rules}
"""


def anchor_unit() -> str:
    """Return the unit that runs the script at every boot, before the roles."""
    return f"""\
[Unit]
Description=UDP of the relay leaves by the reserved address
Wants=network-online.target
After=network-online.target
Before=ztna-intermediate.service ztna-connector.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={ANCHOR_SCRIPT}
Restart=on-failure
RestartSec=5

[Install]
WantedBy=multi-user.target
"""


def _file(path: str, content: str, permissions: str = "0644") -> dict[str, str]:
    return {"path": path, "owner": "root:root", "permissions": permissions, "content": content}
