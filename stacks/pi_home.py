"""The `pi-home` stack: relay, connector and services in a Kubernetes cluster at home, on one address of the LAN."""

import pulumi
import pulumi_kubernetes as kubernetes

from components.k8s_backends import K8sBackends, K8sBackendsArgs
from components.k8s_load_balancer import K8sLoadBalancer
from components.k8s_namespace import K8sNamespace, K8sNamespaceArgs
from components.k8s_network_policies import K8sNetworkPolicies
from components.k8s_role import K8sRole, K8sRoleArgs
from components.k8s_secrets import K8sSecrets, K8sSecretsArgs
from components.pi_design import DRAIN_S, design
from components.pki import Pki, PkiArgs
from infra.config_pi import CONNECTOR, INTERMEDIATE, pi_config
from infra.outputs import StackOutputs


def program() -> pulumi.Output[StackOutputs]:
    """Declare the stack and return what it promises."""
    config = pi_config(pulumi.Config("pi-home"))
    home = design(pulumi.get_stack(), config)
    site, overlay = home.site, home.overlay
    cluster = kubernetes.Provider(
        "cluster",
        kubeconfig=config.kubeconfig,
        context=config.context,
        render_yaml_to_directory=config.render_dir,
        enable_config_map_mutable=True,
        enable_secret_mutable=True,
    )
    there = pulumi.ResourceOptions(providers=[cluster])

    pki = Pki(
        "pki",
        PkiArgs(
            stack=overlay.stack,
            settings=overlay.settings.pki,
            relay_name=overlay.relay_name,
            server_name=overlay.server_name,
            addresses=[home.address],
            dns_names=[config.relay_host],
            members=overlay.members(),
        ),
    )
    namespace = K8sNamespace("namespace", K8sNamespaceArgs(site=site), there)
    certificates = {INTERMEDIATE: pki.files(INTERMEDIATE), CONNECTOR: pki.files(CONNECTOR)}
    secrets = K8sSecrets("secrets", K8sSecretsArgs(site=site, members=certificates, after=(namespace,)), there)
    policies = K8sNetworkPolicies("policies", home.policies(namespace), there)

    K8sLoadBalancer("lan", home.balancer(namespace), there)
    prepared = (namespace, secrets, policies)
    relay = K8sRoleArgs(
        site=site,
        containers=(home.intermediate,),
        files=home.intermediate_files(),
        certificates=secrets.certificates(INTERMEDIATE),
        drain_s=DRAIN_S,
        after=prepared,
    )
    K8sRole(INTERMEDIATE, relay, there)
    K8sBackends("backends", K8sBackendsArgs(site=site, backends=home.backends, after=(namespace, policies)), there)
    connector = K8sRoleArgs(
        site=site,
        containers=(home.connector,),
        files=home.connector_files(),
        certificates=secrets.certificates(CONNECTOR),
        replacement="recreate",
        after=prepared,
    )
    K8sRole(CONNECTOR, connector, there)
    return pulumi.Output.all(
        ca_pem=pki.ca_pem, profiles=home.for_agents(pki.profile), agent_files=home.for_agents(pki.agent_files)
    ).apply(lambda made: home.outputs(**made))
