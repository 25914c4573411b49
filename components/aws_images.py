"""Container images of the AWS stack: a registry for each, built and pushed from here, referred to by digest."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pulumi
import pulumi_docker_build as docker
from pulumi_aws import ecr

from infra import naming

KEPT_IMAGES = 10
UNTAGGED_DAYS = 7

LIFECYCLE = json.dumps(
    {
        "rules": [
            {
                "rulePriority": 1,
                "description": f"keep the {KEPT_IMAGES} newest releases, for rollback",
                "selection": {
                    "tagStatus": "tagged",
                    "tagPatternList": ["*"],
                    "countType": "imageCountMoreThan",
                    "countNumber": KEPT_IMAGES,
                },
                "action": {"type": "expire"},
            },
            {
                "rulePriority": 2,
                "description": "what no release refers to",
                "selection": {
                    "tagStatus": "untagged",
                    "countType": "sinceImagePushed",
                    "countUnit": "days",
                    "countNumber": UNTAGGED_DAYS,
                },
                "action": {"type": "expire"},
            },
        ]
    },
    sort_keys=True,
)
"""Source: https://docs.aws.amazon.com/AmazonECR/latest/userguide/lifecycle_policy_parameters.html"""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSource:
    """What an image is built from.

    Attributes:
        repository: name in the registry, without the project's prefix.
        tag: changes when, and only when, the sources do: a tag is never pushed twice.
        context: directory sent to the builder, relative to the project.
        dockerfile: relative to the project.
        target: stage of the Dockerfile.
    """

    repository: str
    tag: str
    context: str
    dockerfile: str
    target: str | None = None
    build_args: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class AwsImagesArgs:
    """Which images, for which platforms (`linux/amd64`, `linux/arm64`)."""

    stack: str
    run: str
    images: Sequence[ImageSource]
    platforms: Sequence[str]


class AwsImages(pulumi.ComponentResource):
    """A repository for each image, and the image in it.

    Children, per image: Repository x 1 (`ztna/NAME`, immutable tags, scan on push), LifecyclePolicy x 1, docker-build
    Image x 1. Layers are compressed by zstd: a task pulls and unpacks them sooner.

    Outputs, each by repository: `references` (REPOSITORY@DIGEST), `repository_arns`, and `account_id`, the registry's.
    It runs nothing. Needs a Docker daemon with buildx (BuildKit) at `up`, not at preview.
    """

    references: pulumi.Output[dict[str, str]]
    repository_arns: pulumi.Output[dict[str, str]]
    account_id: pulumi.Output[str]

    def __init__(self, name: str, args: AwsImagesArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(naming.component_token("AwsImages"), name, {}, opts)
        self._name, self._args = name, args
        repositories = {image.repository: self._repository(image.repository) for image in args.images}
        self.account_id = repositories[args.images[0].repository].registry_id
        login = ecr.get_authorization_token_output(
            registry_id=self.account_id, opts=pulumi.InvokeOutputOptions(parent=self)
        )
        self.references = pulumi.Output.all(
            **{image.repository: self._image(image, repositories[image.repository], login) for image in args.images}
        )
        self.repository_arns = pulumi.Output.all(**{key: found.arn for key, found in repositories.items()})
        self.register_outputs(
            {
                "references": self.references,
                "repository_arns": self.repository_arns,
                "account_id": self.account_id,
            }
        )

    def _repository(self, repository: str) -> ecr.Repository:
        child = pulumi.ResourceOptions(parent=self)
        made = ecr.Repository(
            naming.child_name(self._name, repository),
            name=f"{naming.PROJECT}/{repository}",
            image_tag_mutability="IMMUTABLE",
            image_scanning_configuration=ecr.RepositoryImageScanningConfigurationArgs(scan_on_push=True),
            encryption_configurations=[ecr.RepositoryEncryptionConfigurationArgs(encryption_type="AES256")],
            force_delete=True,  # images can be built again: destroy leaves nothing
            tags=naming.tags(self._args.stack, self._args.run, self._name),
            opts=child,
        )
        ecr.LifecyclePolicy(
            naming.child_name(self._name, f"{repository}-lifecycle"),
            repository=made.name,
            policy=LIFECYCLE,
            opts=child,
        )
        return made

    def _image(
        self,
        source: ImageSource,
        repository: ecr.Repository,
        login: pulumi.Output[ecr.GetAuthorizationTokenResult],
    ) -> pulumi.Output[str]:
        """Build and push an image; return its reference by digest."""
        made = docker.Image(
            naming.child_name(self._name, f"{source.repository}-image"),
            context=docker.BuildContextArgs(location=source.context),
            dockerfile=docker.DockerfileArgs(location=source.dockerfile),
            target=source.target,
            build_args={"SOURCE_DATE_EPOCH": "0", **source.build_args},
            platforms=[docker.Platform(platform) for platform in self._args.platforms],
            tags=[pulumi.Output.concat(repository.repository_url, ":", source.tag)],
            exports=[
                docker.ExportArgs(
                    registry=docker.ExportRegistryArgs(
                        compression=docker.CompressionType.ZSTD, force_compression=True, oci_media_types=True
                    )
                )
            ],
            registries=[
                docker.RegistryArgs(
                    address=repository.repository_url,
                    username=login.user_name,
                    password=pulumi.Output.secret(login.password),
                )
            ],
            build_on_preview=False,
            push=False,  # `exports` says how
            opts=pulumi.ResourceOptions(parent=self),
        )
        return pulumi.Output.concat(repository.repository_url, "@", made.digest)
