"""Rules about single cloud resources: disks, metadata, registries, tags, Kubernetes Services, rights."""

from typing import Any, Final

from infra.graph import UNKNOWN, Graph, Node
from infra.policy.model import Finding
from infra.policy.values import get, items, parsed

INSTANCE: Final = "aws:ec2/instance:Instance"
LAUNCH_TEMPLATE: Final = "aws:ec2/launchTemplate:LaunchTemplate"
VOLUME: Final = "aws:ebs/volume:Volume"
REPOSITORY: Final = "aws:ecr/repository:Repository"
SERVICE: Final = "kubernetes:core/v1:Service"
TAGS: Final = ("project", "stack", "run", "component")

NOT_TAGGABLE: Final = frozenset(
    {
        "aws:acm/certificateValidation:CertificateValidation",
        "aws:ec2/eipAssociation:EipAssociation",
        "aws:ec2/mainRouteTableAssociation:MainRouteTableAssociation",
        "aws:ec2/networkInterfaceSecurityGroupAttachment:NetworkInterfaceSecurityGroupAttachment",
        "aws:ec2/route:Route",
        "aws:ec2/routeTableAssociation:RouteTableAssociation",
        "aws:ec2/securityGroupRule:SecurityGroupRule",
        "aws:ec2/volumeAttachment:VolumeAttachment",
        "aws:ecr/lifecyclePolicy:LifecyclePolicy",
        "aws:ecr/repositoryPolicy:RepositoryPolicy",
        "aws:ecs/clusterCapacityProviders:ClusterCapacityProviders",
        "aws:iam/rolePolicy:RolePolicy",
        "aws:iam/rolePolicyAttachment:RolePolicyAttachment",
        "aws:lb/targetGroupAttachment:TargetGroupAttachment",
        "aws:route53/record:Record",
        "aws:secretsmanager/secretPolicy:SecretPolicy",
        "aws:secretsmanager/secretVersion:SecretVersion",
        "aws:servicediscovery/instance:Instance",
    }
)
"""AWS types without tags of their own (their pages in the provider's registry); all others must have them."""

DO_TAGGABLE: Final = frozenset(
    {
        "digitalocean:index/droplet:Droplet",
        "digitalocean:index/volume:Volume",
        "digitalocean:index/databaseCluster:DatabaseCluster",
        "digitalocean:index/kubernetesCluster:KubernetesCluster",
    }
)
"""DigitalOcean types with tags; those of a firewall choose droplets instead."""


def volumes_encrypted(graph: Graph) -> list[Finding]:
    """Disks of instances and EBS volumes are encrypted."""
    found = []
    for node in graph.nodes:
        disks = []
        if node.type == INSTANCE:
            disks = [("rootBlockDevice", get(node, "rootBlockDevice", {}))]
            disks += [(f"ebsBlockDevices[{i}]", disk) for i, disk in enumerate(items(node, "ebsBlockDevices"))]
        elif node.type == LAUNCH_TEMPLATE:
            mappings = items(node, "blockDeviceMappings")
            disks = [(f"blockDeviceMappings[{i}].ebs", disk.get("ebs") or {}) for i, disk in enumerate(mappings)]
        elif node.type == VOLUME:
            disks = [("volume", {"encrypted": get(node, "encrypted")})]
        for path, disk in disks:
            if disk != UNKNOWN and str(disk.get("encrypted")).lower() not in ("true", UNKNOWN):
                message = f"{path}.encrypted is {disk.get('encrypted')!r}: a copy of the disk is readable"
                found.append(Finding("volumes-encrypted", node.urn, message, "set encrypted to true"))
    return found


def imdsv2_required(graph: Graph) -> list[Finding]:
    """The metadata service asks for a session token, so that a request forged through a proxy gets nothing."""
    return [
        Finding(
            "imdsv2-required",
            node.urn,
            f"metadataOptions.httpTokens is {get(node, 'metadataOptions.httpTokens')!r}",
            "set metadataOptions.httpTokens to required",
        )
        for node in (*graph.of_type(INSTANCE), *graph.of_type(LAUNCH_TEMPLATE))
        if get(node, "metadataOptions.httpTokens") not in ("required", UNKNOWN)
        and get(node, "metadataOptions.httpEndpoint") != "disabled"
    ]


def registries_immutable(graph: Graph) -> list[Finding]:
    """Tags of image repositories cannot be moved, and images are scanned when pushed."""
    found = []
    for node in graph.of_type(REPOSITORY):
        if get(node, "imageTagMutability") != "IMMUTABLE":
            message = f"imageTagMutability is {get(node, 'imageTagMutability')!r}"
            found.append(Finding("registries-immutable", node.urn, message, "set imageTagMutability to IMMUTABLE"))
        if get(node, "imageScanningConfiguration.scanOnPush") is not True:
            message = "imageScanningConfiguration.scanOnPush is not true"
            found.append(Finding("registries-immutable", node.urn, message, "set scanOnPush to true"))
    return found


def tags_present(graph: Graph) -> list[Finding]:
    """Resources that can carry tags say project, stack, run and component."""
    found = []
    for node in graph.nodes:
        if not node.custom:
            continue
        missing = [tag for tag in TAGS if not _has_tag(graph, node, tag)]
        if missing:
            message = f"tags lack {', '.join(missing)}"
            found.append(Finding("tags-present", node.urn, message, "give it naming.tags(stack, run, component)"))
    return found


def _has_tag(graph: Graph, node: Node, tag: str) -> bool:
    if node.type in DO_TAGGABLE:
        tags = get(node, "tags", [])
        return tags == UNKNOWN or any(text == UNKNOWN or str(text).startswith(f"{tag}:") for text in tags)
    if not node.type.startswith("aws:") or node.type in NOT_TAGGABLE:
        return True
    tags = get(node, "tags", {})
    return tags == UNKNOWN or bool(tags.get(tag)) or bool(_default_tags(graph, node).get(tag))


def _default_tags(graph: Graph, node: Node) -> dict[str, Any]:
    """Tags that the node's provider gives to everything it makes."""
    provider = graph.by_urn.get(node.provider.rpartition("::")[0]) or graph.by_urn.get(node.provider)
    settings = parsed(provider.inputs.get("defaultTags")) if provider is not None else None
    tags = settings.get("tags") if isinstance(settings, dict) else None
    return tags if isinstance(tags, dict) else {}


def source_address_kept(graph: Graph) -> list[Finding]:
    """Services that take UDP from outside the cluster keep the source address."""
    return [
        Finding(
            "source-address-kept",
            node.urn,
            f"spec.externalTrafficPolicy is {get(node, 'spec.externalTrafficPolicy', 'Cluster')!r}: nodes rewrite the "
            "source, the observed address lies, and direct paths cannot come about",
            "set spec.externalTrafficPolicy to Local",
        )
        for node in graph.of_type(SERVICE)
        if get(node, "spec.type") in ("LoadBalancer", "NodePort")
        and any(port.get("protocol") == "UDP" for port in items(node, "spec.ports"))
        and get(node, "spec.externalTrafficPolicy") not in ("Local", UNKNOWN)
    ]


def rights_are_narrow(graph: Graph) -> list[Finding]:
    """Policies grant named actions: no wildcard over a service, and no Resource * for what can name its target."""
    found = []
    for node in graph.nodes:
        if not node.type.startswith("aws:iam/"):
            continue
        for statement in _statements(get(node, "policy")):
            actions = statement.get("Action", [])
            for action in [actions] if isinstance(actions, str) else actions:
                if statement.get("Effect") == "Allow" and str(action).endswith("*") and _is_broad(str(action)):
                    message = f"policy allows {action}"
                    found.append(Finding("rights-are-narrow", node.urn, message, "name the actions it needs"))
    return found


def _is_broad(action: str) -> bool:
    """`*` and `service:*`; `ssmmessages:Create*` names what it does."""
    return action.partition(":")[2] in ("", "*")


def _statements(policy: Any) -> list[dict[str, Any]]:
    document = parsed(policy)
    statements = document.get("Statement", []) if isinstance(document, dict) else []
    return [statements] if isinstance(statements, dict) else [item for item in statements if isinstance(item, dict)]


def namespaces_default_deny(graph: Graph) -> list[Finding]:
    """Every namespace with workloads denies ingress and egress that nothing allows."""
    denied = {"Ingress": set[str](), "Egress": set[str]()}
    for node in graph.of_type("kubernetes:networking.k8s.io/v1:NetworkPolicy"):
        if not get(node, "spec.podSelector", {}):
            for kind in get(node, "spec.policyTypes", []):
                if not items(node, f"spec.{kind.lower()}"):
                    denied[kind].add(str(get(node, "metadata.namespace")))
    found = []
    for node in graph.of_type("kubernetes:apps/v1:Deployment"):
        namespace = str(get(node, "metadata.namespace"))
        for kind, namespaces in denied.items():
            if namespace not in namespaces:
                message = f"namespace {namespace} has no NetworkPolicy that denies {kind} by default"
                remedy = f"add one with an empty podSelector, policyTypes [{kind}] and no rule"
                found.append(Finding("namespaces-default-deny", node.urn, message, remedy))
    return found
