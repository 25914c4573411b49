"""The `lab` stack: an intermediate in public, a connector and an agent behind a NAT each, all on this machine."""

from dataclasses import replace
from pathlib import Path

import pulumi

from components.lab_backend import LabEcho, LabHttpbin, LabServiceArgs
from components.lab_design import FOREIGN, design
from components.lab_network import LabNetwork, LabNetworkArgs
from components.lab_pki import LabPki, LabPkiArgs
from components.lab_role import LabRole, LabRoleArgs
from components.lab_topology import AGENT, BACKEND, CONNECTOR, RELAY
from infra.config import lab_config
from infra.lab.nat import PRESETS
from infra.outputs import StackOutputs
from infra.ports import ECHO, HTTPBIN


def program() -> pulumi.Output[StackOutputs]:
    """Declare the stack and return what it promises."""
    config = lab_config(pulumi.Config("lab"), PRESETS)
    lab = design(pulumi.get_stack(), config, Path.cwd())
    pulumi.log.info(lab.announcement)

    network = LabNetwork("lab", LabNetworkArgs(site=lab.site, topology=lab.topology))
    pki = LabPki("pki", LabPkiArgs(site=lab.site, stack=lab.stack, settings=config.pki, members=lab.members))
    agent_profile = pki.profile(AGENT, lab.agent_config())
    foreign_profile = pki.profile(FOREIGN, lab.connector_config(FOREIGN))

    behind = LabServiceArgs(site=lab.site, host=BACKEND, address=str(lab.plan.backend), port=ECHO, after=(network,))
    echo = LabEcho("echo", behind)
    httpbin = LabHttpbin("httpbin", replace(behind, port=HTTPBIN))
    LabEcho("baseline", replace(behind, host=RELAY, address=str(lab.plan.relay)))

    relay = LabRole(
        RELAY,
        LabRoleArgs(
            site=lab.site,
            host=RELAY,
            role="intermediate",
            release=lab.release,
            files={**pki.files(RELAY), **lab.intermediate_files()},
            reload=("cert.pem", "key.pem", "ca.pem", "policy.json"),
            ready_url=lab.ready_url(RELAY),
            after=(network,),
        ),
    )
    connector = LabRole(
        CONNECTOR,
        LabRoleArgs(
            site=lab.site,
            host=CONNECTOR,
            role="connector",
            release=lab.release,
            files={**pki.files(CONNECTOR), **lab.connector_files()},
            ready_url=lab.ready_url(CONNECTOR),
            after=(network, relay, echo, httpbin),
        ),
    )
    LabRole(
        AGENT,
        LabRoleArgs(
            site=lab.site,
            host=AGENT,
            role="agent",
            release=lab.release,
            files={"agent.json": agent_profile},
            ready_url=lab.ready_url(AGENT),
            after=(network, relay, connector),
        ),
    )
    return pulumi.Output.all(ca=pki.ca_pem, agent=agent_profile, foreign=foreign_profile).apply(
        lambda made: lab.outputs(ca_pem=made["ca"], profile=made["agent"], probes={FOREIGN: made["foreign"]})
    )
