"""What runs on Fargate in the AWS stack: containers and the images that they are of. Pure."""

from collections.abc import Mapping
from typing import Final

from components.aws_images import ImageSource
from components.aws_task import ContainerPort, Workload
from infra import ports
from infra.config_aws import HTTP_APP, QUAKE_PORT, QUAKEKUBE, AwsConfig
from infra.image_tags import content_tag
from infra.overlay import ANY

CONNECTOR: Final = "connector"
CONNECTOR_IMAGE: Final = "app-connector"
PROFILE: Final = "ZTNA_PROFILE"
"""Environment variable that ECS fills from Secrets Manager: the whole connector.json, certificates inline. The image's
first process moves it into memory (docker/entrypoint.py)."""
USER: Final = "65532:65532"
"""The images' user: nobody's number, so that a file system of a host that is mounted by mistake is not its own."""
CODE_FILES: Final = (
    *("Dockerfile", ".dockerignore", "pyproject.toml", "uv.lock", "docker/*.py", "docker/uv.txt"),
    *("ztna/**/*.py", "infra/__init__.py", "infra/echo.py", "infra/http_probe.py"),
)
"""What the images of our own code are built from: what the Dockerfile copies."""
QUAKE_DOCKERFILE: Final = "docker/quakekube/Dockerfile"
QUAKE_FILES: Final = (".dockerignore", "docker/quakekube/**/*")


def workloads(config: AwsConfig) -> tuple[Workload, ...]:
    """Return what a configuration asks for: the connector first, then its backends."""
    made = {HTTP_APP: _http_app, QUAKEKUBE: _quakekube}
    return (_connector(), *(made[name]() for name in config.backends))


def sources(config: AwsConfig) -> tuple[ImageSource, ...]:
    """Return what the images of `workloads` are made of, in the same order."""

    def source(
        repository: str, dockerfile: str, files: tuple[str, ...], target: str | None, build_args: Mapping[str, str]
    ) -> ImageSource:
        settings = {**build_args, "platforms": ",".join(config.platforms), "target": target or ""}
        return ImageSource(
            repository=repository,
            tag=content_tag(files, settings),
            context=".",
            dockerfile=dockerfile,
            target=target,
            build_args=build_args,
        )

    quake = {"QUAKEKUBE_IMAGE": config.quakekube_image}
    made = {
        HTTP_APP: lambda: source(HTTP_APP, "Dockerfile", CODE_FILES, HTTP_APP, {}),
        QUAKEKUBE: lambda: source(QUAKEKUBE, QUAKE_DOCKERFILE, QUAKE_FILES, None, quake),
    }
    connector = source(CONNECTOR_IMAGE, "Dockerfile", CODE_FILES, CONNECTOR, {})
    return (connector, *(made[name]() for name in config.backends))


def _answers(url: str) -> tuple[str, ...]:
    """A health check: ends 0 when the process answers well."""
    return ("python", "-m", "infra.http_probe", url)


def _connector() -> Workload:
    return Workload(
        name=CONNECTOR,
        user=USER,
        ports=(
            ContainerPort(protocol="udp", port=ports.CONNECTOR_UDP),
            ContainerPort(protocol="tcp", port=ports.METRICS["connector"]),
        ),
        health=_answers(f"http://127.0.0.1:{ports.METRICS['connector']}/healthz"),
    )


def _http_app() -> Workload:
    listen = f"--listen={ANY}:{ports.HTTPBIN}"
    return Workload(
        name=HTTP_APP,
        user=USER,
        command=("waitress", listen, "--threads=8", "httpbin:app"),
        ports=(ContainerPort(protocol="tcp", port=ports.HTTPBIN),),
        environment={"TMPDIR": "/dev/shm"},  # noqa: S108 - a large request is spooled; nothing else is writable
        health=_answers(f"http://127.0.0.1:{ports.HTTPBIN}/status/200"),
    )


def _quakekube() -> Workload:
    """QuakeKube: page, data and web socket of the game on one TCP port, the game server behind it on loopback.

    The task is healthy while the process runs: what else its image holds is not ours to say.
    Source: https://github.com/ChrisRx/quake-kube, cmd/q3/app/run/run.go.
    """
    page = f"{ANY}:{QUAKE_PORT}"
    return Workload(
        name=QUAKEKUBE,
        user=USER,
        entry_point=(
            *("q3", "run", "--agree-eula", "--config=/config/config.yaml", "--assets-dir=/assets"),
            *(f"--client-addr={page}", f"--server-addr=127.0.0.1:{QUAKE_PORT}"),
            f"--content-server=http://127.0.0.1:{QUAKE_PORT}",
        ),
        ports=(ContainerPort(protocol="tcp", port=QUAKE_PORT),),
        environment={"HOME": "/assets"},
        writable={"assets": "/assets"},
        cpu=512,
        memory_mib=1024,
    )
