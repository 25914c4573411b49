"""The aws-us-east-2 stack once its resources are made: what tasks and relay are given, and what it promises.

Told from a recorder, since a preview knows neither addresses nor keys.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from infra import ports
from infra.config import ConfigError
from infra.config_aws import QUAKEKUBE_IMAGE
from infra.outputs import SECRET_KEYS, StackOutputs, to_exports
from stacks import aws_us_east_2
from tests.support.pulumi_mocks import Recorder, record
from ztna.config import ConnectorConfig, IntermediateConfig

ROOT = Path(__file__).parents[2]
STACK = "aws-us-east-2"
SECRET = "4dabf18193072939515e22adb298388d"
ADMINS = "203.0.113.0/24"
WORKLOADS = ("connector", "http-app", "quakekube")

ACCOUNT = "123456789012"
KEY = "-----BEGIN PRIVATE KEY-----\nKEY OF {}\n-----END PRIVATE KEY-----\n"
CERT = "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n"
REGISTRY = f"{ACCOUNT}.dkr.ecr.us-east-2.amazonaws.com"
ADDRESSES = {
    "relay-address": "198.51.100.10",
    "vpc-nat-address": "198.51.100.11",
    "nlb-address-us-east-2a": "198.51.100.12",
}


def arn(kind: str) -> Any:
    return lambda name, _: {"arn": f"arn:aws:{kind}:us-east-2:{ACCOUNT}:{name}"}


COMPUTED: dict[str, Any] = {
    "aws:ec2/eip:Eip": lambda name, _: {"publicIp": ADDRESSES[name], "allocationId": f"{name}-allocation"},
    "aws:ec2/keyPair:KeyPair": {"keyName": "relay"},
    "aws:ecr/repository:Repository": lambda name, given: {
        **arn("ecr")(name, given), "repositoryUrl": f"{REGISTRY}/{given['name']}", "registryId": ACCOUNT,
    },
    "docker-build:index:Image": lambda name, _: {"digest": f"sha256:{name.encode().hex():0<64.64}"},
    "aws:cloudwatch/logGroup:LogGroup": arn("logs"),
    "aws:ecs/cluster:Cluster": arn("ecs"),
    "aws:ecs/taskDefinition:TaskDefinition": arn("ecs"),
    "aws:iam/role:Role": arn("iam"),
    "aws:lb/loadBalancer:LoadBalancer": arn("elasticloadbalancing"),
    "aws:lb/targetGroup:TargetGroup": arn("elasticloadbalancing"),
    "aws:lb/listener:Listener": arn("elasticloadbalancing"),
    "aws:secretsmanager/secret:Secret": arn("secretsmanager"),
    "aws:secretsmanager/secretVersion:SecretVersion": {"versionId": "0123"},
    "aws:servicediscovery/service:Service": arn("servicediscovery"),
    "tls:index/privateKey:PrivateKey": lambda name, _: {
        "privateKeyPemPkcs8": KEY.format(name), "privateKeyOpenssh": KEY.format(name),
        "publicKeyOpenssh": f"ssh-ed25519 {name}\n",
    },
    "tls:index/selfSignedCert:SelfSignedCert": lambda name, _: {"certPem": CERT.format(name)},
    "tls:index/certRequest:CertRequest": {"certRequestPem": "REQUEST"},
    "tls:index/locallySignedCert:LocallySignedCert": lambda name, _: {"certPem": CERT.format(name)},
    "pulumi-python:dynamic/host:Release": {"release_id": "0123456789abcdef", "status": "ready"},
}  # fmt: skip
CALLS: dict[str, dict[str, Any]] = {
    "aws:ssm/getParameter:getParameter": {"value": "ami-0123", "id": "p", "arn": "", "type": "String", "version": 1},
    "aws:ecr/getAuthorizationToken:getAuthorizationToken": {
        "proxyEndpoint": f"https://{REGISTRY}", "userName": "AWS", "password": "LOGIN", "id": "us-east-2",
        "authorizationToken": "T", "expiresAt": "",
    },
}  # fmt: skip


def run(**config: str) -> tuple[Recorder, StackOutputs]:
    """Run the program against a recorder."""
    given = {"adminCidrs": ADMINS, "quakekube": "true", "quakekubeImage": QUAKEKUBE_IMAGE, **config}
    settings = {f"{STACK}:{key}": value for key, value in given.items()}
    return record(aws_us_east_2.program, stack=STACK, config=settings, computed=COMPUTED, calls=CALLS)


@pytest.fixture(scope="module")
def recorded() -> tuple[Recorder, StackOutputs]:
    """One run with the committed configuration."""
    return run()


def opened(value: Any) -> Any:
    """The value of a secret; fails when it is none."""
    assert isinstance(value, dict), f"not secret: {value!r}"
    assert SECRET in value
    return value["value"]


def container(recorder: Recorder, workload: str) -> dict[str, Any]:
    """The one container of a task."""
    definition = recorder.of_type("TaskDefinition")[f"{workload}-task-definition"]
    (only,) = json.loads(definition["containerDefinitions"])
    assert isinstance(only, dict)
    return only


@pytest.mark.parametrize("workload", WORKLOADS)
def test_containers_run_images_by_digest(recorded: tuple[Recorder, StackOutputs], workload: str) -> None:
    repository = "app-connector" if workload == "connector" else workload
    assert re.fullmatch(
        rf"{REGISTRY}/ztna/{repository}@sha256:[0-9a-f]{{64}}", container(recorded[0], workload)["image"]
    )


@pytest.mark.parametrize("workload", WORKLOADS)
def test_containers_have_no_rights(recorded: tuple[Recorder, StackOutputs], workload: str) -> None:
    found = container(recorded[0], workload)
    assert found["user"] == "65532:65532"
    assert found["readonlyRootFilesystem"] is True
    assert found["privileged"] is False
    assert found["linuxParameters"]["capabilities"] == {"drop": ["ALL"]}
    definition = recorded[0].of_type("TaskDefinition")[f"{workload}-task-definition"]
    assert (definition["networkMode"], definition["requiresCompatibilities"]) == ("awsvpc", ["FARGATE"])


@pytest.mark.parametrize(("workload", "url"), [("connector", ":9091/healthz"), ("http-app", ":8080/status/200")])
def test_containers_are_asked_whether_they_work(
    recorded: tuple[Recorder, StackOutputs], workload: str, url: str
) -> None:
    check = container(recorded[0], workload)["healthCheck"]
    assert check["command"] == ["CMD", "python", "-m", "infra.http_probe", f"http://127.0.0.1{url}"]
    assert check["interval"] == 10
    assert "COPY infra/__init__.py infra/echo.py infra/http_probe.py infra/" in (ROOT / "Dockerfile").read_text()


@pytest.mark.parametrize(
    ("workload", "expected"),
    [
        ("connector", [("udp", 4434), ("tcp", 9091)]),
        ("http-app", [("tcp", 8080)]),
        ("quakekube", [("tcp", 27960)]),
    ],
)
def test_containers_listen_on(
    recorded: tuple[Recorder, StackOutputs], workload: str, expected: list[tuple[str, int]]
) -> None:
    found = [(item["protocol"], item["containerPort"]) for item in container(recorded[0], workload)["portMappings"]]
    assert found == expected


@pytest.mark.parametrize("workload", WORKLOADS)
def test_containers_log_where_they_may(recorded: tuple[Recorder, StackOutputs], workload: str) -> None:
    log = container(recorded[0], workload)["logConfiguration"]
    assert log["options"]["awslogs-group"] == f"/ztna/{STACK}/{workload}"
    assert log["options"]["awslogs-region"] == "us-east-2"


def test_the_connectors_profile_comes_from_the_secret_store_by_version(recorded: tuple[Recorder, StackOutputs]) -> None:
    found = container(recorded[0], "connector")
    secret = f"arn:aws:secretsmanager:us-east-2:{ACCOUNT}:secrets-connector"
    assert found["secrets"] == [{"name": "ZTNA_PROFILE", "valueFrom": f"{secret}:::0123"}]
    assert found["environment"] == []
    entry = (ROOT / "docker/entrypoint.py").read_text()
    assert 'VARIABLE = "ZTNA_PROFILE"' in entry, "the image reads the variable that the task sets"
    for workload in ("http-app", "quakekube"):
        assert container(recorded[0], workload)["secrets"] == []


def test_the_profile_is_a_whole_configuration_of_a_connector(recorded: tuple[Recorder, StackOutputs]) -> None:
    version = recorded[0].of_type("SecretVersion")["secrets-connector-version"]
    profile = json.loads(opened(version["secretString"]))
    config = ConnectorConfig.from_json(profile)
    assert (config.relay.host, config.relay.port, config.relay.server_name) == ("198.51.100.10", 4433, "ztna-server")
    assert (config.external_ip, config.p2p.port) == ("198.51.100.12", ports.CONNECTOR_UDP)
    assert (config.http.addr, config.http.port) == ("0.0.0.0", 9091)
    assert "KEY OF pki-connector" in profile["key_pem"]
    backends = {item["id"]: item["backend"] for item in profile["services"]}
    assert backends == {"http-app": "http-app.ztna.internal:8080", "quakekube": "quakekube.ztna.internal:27960"}
    assert not [key for key in profile if key.endswith("_path")]
    assert len(json.dumps(profile)) < 64 * 1024


def test_the_relay_gets_its_files_over_ssh_and_none_in_user_data(recorded: tuple[Recorder, StackOutputs]) -> None:
    (release,) = recorded[0].of_type("Release").values()
    files = opened(release["files"])["intermediate"]
    assert set(files) == {"intermediate.json", "policy.json", "cert.pem", "key.pem", "ca.pem"}
    config = IntermediateConfig.from_json(json.loads(files["intermediate.json"]))
    assert (config.external_ip, config.port) == ("198.51.100.10", 4433)
    assert (config.relay, config.relay_own_host) == ("auto", False)
    assert str(config.admin_socket) == "/run/ztna-intermediate/admin.sock"
    (unit,) = release["units"]
    assert unit["forwards"], "connector and agents are on other hosts, so the kernel can relay between them"
    assert release["sysctls"]["net.ipv4.ip_forward"] == 1
    user_data = opened(recorded[0].of_type("Instance")["relay-instance-1"]["userData"])
    assert user_data.startswith("#cloud-config\n")
    assert "KEY OF ssh-bootstrap" in user_data
    for other in ("KEY OF pki", "KEY OF ssh-admin", "KEY OF ssh-permanent"):
        assert other not in user_data


def test_private_keys_are_secret_wherever_they_go(recorded: tuple[Recorder, StackOutputs]) -> None:
    def plain(value: Any) -> str:
        match value:
            case dict() if SECRET in value:
                return ""
            case dict():
                return "".join(map(plain, value.values()))
            case list():
                return "".join(map(plain, value))
            case _:
                return str(value)

    for found in recorded[0].resources:
        text = plain(found.inputs)
        assert "KEY OF" not in text, found.name
        assert "LOGIN" not in text, found.name


@pytest.mark.parametrize("workload", WORKLOADS)
def test_starting_a_task_may_do_only_what_it_needs(recorded: tuple[Recorder, StackOutputs], workload: str) -> None:
    policy = json.loads(recorded[0].of_type("RolePolicy")[f"{workload}-task-roles-execution-policy"]["policy"])
    found = {item["Sid"]: (item["Action"], item["Resource"]) for item in policy["Statement"]}
    repository = "app-connector" if workload == "connector" else workload
    # ECR knows no resource for this action; it gives a login, not a layer.
    assert found.pop("Login") == (["ecr:GetAuthorizationToken"], "*")
    assert found.pop("Pull")[1] == f"arn:aws:ecr:us-east-2:{ACCOUNT}:images-{repository}"
    assert found.pop("Log") == (
        ["logs:CreateLogStream", "logs:PutLogEvents"],
        f"arn:aws:logs:us-east-2:{ACCOUNT}:ecs-{workload}-log:log-stream:*",
    )
    secrets = [f"arn:aws:secretsmanager:us-east-2:{ACCOUNT}:secrets-connector"]
    expected = {"Secrets": (["secretsmanager:GetSecretValue"], secrets)} if workload == "connector" else {}
    assert found == expected
    for item in policy["Statement"]:
        assert item["Effect"] == "Allow"
        assert not [action for action in item["Action"] if "*" in action]


def test_task_roles_may_do_nothing_and_only_this_accounts_tasks_take_roles(
    recorded: tuple[Recorder, StackOutputs],
) -> None:
    owners = {policy["role"] for policy in recorded[0].of_type("RolePolicy").values()}
    assert owners == {f"{workload}-task-roles-execution-id" for workload in WORKLOADS}
    for role in recorded[0].of_type("Role").values():
        (statement,) = json.loads(role["assumeRolePolicy"])["Statement"]
        assert statement["Principal"] == {"Service": "ecs-tasks.amazonaws.com"}
        assert statement["Condition"] == {"StringEquals": {"aws:SourceAccount": ACCOUNT}}


def test_pushing_logs_in_by_a_token(recorded: tuple[Recorder, StackOutputs]) -> None:
    for image in recorded[0].of_type("Image").values():
        (registry,) = opened(image["registries"])
        assert (registry["username"], registry["password"]) == ("AWS", "LOGIN")


def test_a_tag_follows_the_sources_and_the_platforms(recorded: tuple[Recorder, StackOutputs]) -> None:
    def tags(recorder: Recorder) -> dict[str, str]:
        return {name: image["tags"][0] for name, image in recorder.of_type("Image").items()}

    before = tags(recorded[0])
    assert re.fullmatch(rf"{REGISTRY}/ztna/app-connector:[0-9a-f]{{16}}", before["images-app-connector-image"])
    assert tags(run()[0]) == before
    other = tags(run(platforms="linux/amd64,linux/arm64")[0])
    assert all(other[name] != before[name] for name in before)
    quake = tags(run(quakekubeImage=f"registry.example/quake@sha256:{2:064x}")[0])
    assert {name for name in before if quake[name] != before[name]} == {"images-quakekube-image"}


def test_registered_targets_and_names(recorded: tuple[Recorder, StackOutputs]) -> None:
    services = {found.name: found.inputs for found in recorded[0].resources if found.type == "aws:ecs/service:Service"}
    (target,) = services["services-connector"]["loadBalancers"]
    assert (target["containerName"], target["containerPort"]) == ("connector", 4434)
    assert services["services-connector"]["healthCheckGracePeriodSeconds"] == 30
    assert "serviceRegistries" not in services["services-connector"]
    for workload in ("http-app", "quakekube"):
        registry = services[f"services-{workload}"]["serviceRegistries"]["registryArn"]
        assert registry == f"arn:aws:servicediscovery:us-east-2:{ACCOUNT}:names-{workload}"
        assert "loadBalancers" not in services[f"services-{workload}"]


def test_it_promises_what_was_configured(recorded: tuple[Recorder, StackOutputs]) -> None:
    outputs = recorded[1]
    assert (outputs.stack, outputs.run, outputs.rung) == (STACK, STACK, "cloud")
    (relay,) = outputs.relays
    assert (relay.host, relay.port, relay.place) == ("198.51.100.10", 4433, "relay")
    assert [(item.id, item.virtual_ip, item.backend) for item in outputs.services] == [
        ("http-app", "100.64.0.100", "http-app.ztna.internal:8080"),
        ("quakekube", "100.64.0.101", "quakekube.ztna.internal:27960"),
    ]
    assert [(item.name, item.place) for item in outputs.connectors] == [("connector", "connector")]
    assert set(outputs.places) == {"relay", "connector", "http-app", "quakekube"}
    place = outputs.places["relay"]
    assert place.exec[0] == "ssh"
    assert "StrictHostKeyChecking=yes" in place.exec
    assert any(outputs.ssh[0].host_key in word for word in place.exec), "it believes the host key of the outputs alone"
    assert all(argv[: len(place.exec)] == place.exec for argv in place.controls.values()), "not this machine's units"
    assert [(item.host, item.user, item.host_key) for item in outputs.ssh] == [
        ("198.51.100.10", "ubuntu", "ssh-ed25519 ssh-permanent")
    ]
    profile = json.loads(outputs.agents[0].profile)
    assert profile["intermediate_server"]["host"] == "198.51.100.10"
    assert "KEY OF pki-laptop" in profile["key_pem"]
    assert set(outputs.agent_files) == {"laptop"}
    assert set(outputs.ssh_private_keys) == {"198.51.100.10"}


def test_paths_are_direct_but_where_udp_is_blocked(recorded: tuple[Recorder, StackOutputs]) -> None:
    predicted = {item.peer_nat: item.path for item in recorded[1].expected_path}
    assert predicted.pop("udp-blocked") == "none"
    assert set(predicted.values()) == {"direct"}, "the load balancer brings UDP 4434 in"


def test_no_key_stands_in_what_is_exported_plainly(recorded: tuple[Recorder, StackOutputs]) -> None:
    exports = to_exports(recorded[1])
    shown = json.dumps({key: value for key, value in exports.items() if key not in SECRET_KEYS})
    assert "KEY OF" not in shown


def test_a_missing_key_stops_it_before_anything_is_registered() -> None:
    with pytest.raises(ConfigError, match="aws-us-east-2:adminCidrs is missing"):
        record(aws_us_east_2.program, stack=STACK, config={})


def test_the_program_is_short_and_has_no_branches() -> None:
    text = Path(aws_us_east_2.__file__).read_text()
    assert len(text.splitlines()) <= 80
    assert not [word for word in (" if ", " while ", " try:", " match ") if word in text.split('"""')[-1]]
