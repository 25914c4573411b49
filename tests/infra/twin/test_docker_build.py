"""Images as the twin builds them: what Dockerfiles say, and what becomes of the project's own."""

import json
from pathlib import Path

import pytest

from infra.twin import docker_build
from infra.twin.aws_places import images_folder
from infra.twin.dockerfile import DockerfileError, parse
from infra.twin.interface import TwinError
from tests.infra.twin.sites import RUN, noted_site

DOCKERFILE = """\
# a comment
ARG BASE=debian:12
FROM ${BASE} AS build
ENV A=1 B="two words"
WORKDIR /src
FROM build AS files
COPY a.py \\
     b.py lib/
RUN ["python3", "x.py"]
FROM scratch AS runtime
ENV PATH=/bin
USER 1:2
ENTRYPOINT ["python", "-m"]
FROM runtime AS app
COPY --from=files /tree/ /
CMD ["app"]
"""


def test_a_stage_has_what_those_below_it_say() -> None:
    stages = parse(DOCKERFILE, {})
    assert stages["build"].base == "debian:12"
    assert parse(DOCKERFILE, {"BASE": "alpine"})["build"].base == "alpine"
    app = stages["app"]
    assert (app.env, app.user, app.entry_point, app.command) == ({"PATH": "/bin"}, "1:2", ["python", "-m"], ["app"])
    assert stages["files"].env == {"A": "1", "B": "two words"}
    assert stages["files"].steps == [("COPY", ["a.py", "b.py", "lib/"]), ("RUN", ["python3", "x.py"])]


def test_an_entry_point_takes_the_command_of_below_away() -> None:
    stages = parse('FROM scratch AS a\nCMD ["x"]\nFROM a AS b\nENTRYPOINT ["y"]\n', {})
    assert (stages["b"].entry_point, stages["b"].command) == (["y"], [])


@pytest.mark.parametrize("text", ["COPY a b\n", "FROM scratch\nSHELL x\n", "FROM scratch\nENV A\n"])
def test_what_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(DockerfileError):
        parse(text, {})


def test_the_projects_images_hold_its_sources_and_how_they_are_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = noted_site(tmp_path, monkeypatch)
    given = {"context": {"location": "."}, "dockerfile": {"location": "Dockerfile"}, "platforms": ["linux/amd64"]}
    digest = docker_build.build(site, {**given, "target": "http-app"})
    assert docker_build.build(site, {**given, "target": "http-app"}) == digest, "the same sources give the same image"
    folder = images_folder(RUN) / digest.removeprefix("sha256:")
    app = folder / "root" / "opt" / "ztna" / "app"
    assert (app / "infra" / "http_probe.py").is_file()
    assert not (app / "ztna").exists()
    assert (folder.stat().st_mode & 0o777) == 0o755
    image = json.loads((folder / "image.json").read_text())
    assert image["entry_point"] == ["python", "-m"]
    assert image["command"][0] == "waitress"
    assert (image["user"], image["standin"]) == ("65532:65532", "")
    assert any("dependencies" in line for line in image["recorded"])
    assert [path.name for path in images_folder(RUN).iterdir()] == [folder.name], "nothing of the build is left"


def test_an_image_of_another_registry_is_stood_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = noted_site(tmp_path, monkeypatch)
    given = {"dockerfile": {"location": "docker/quakekube/Dockerfile"}, "buildArgs": {"QUAKEKUBE_IMAGE": "q@sha256:1"}}
    digest = docker_build.build(site, given)
    image = json.loads((images_folder(RUN) / digest.removeprefix("sha256:") / "image.json").read_text())
    assert (image["standin"], image["user"]) == ("q@sha256:1", "65532:65532")


def test_a_target_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TwinError, match="no target stage 'conector'; it has build"):
        docker_build.build(noted_site(tmp_path, monkeypatch), {"target": "conector"})
