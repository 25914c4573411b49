"""Images: built as far as it takes neither a registry nor a builder, and kept by digest where tasks run them from.

    IMAGES/DIGEST/root/...       what the image's tree has of our own: what COPY takes, as docker/install.py puts it
    IMAGES/DIGEST/image.json     how it is started

Stages begin from nothing or from one another: their files are those of the context. Interpreter, its libraries and the
wheels of uv.lock are not copied: a task is given this machine's /usr and this checkout's environment in their place.
An image that begins from one of another registry cannot be had here: a process that answers on its ports stands for it.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, ClassVar, Final

from infra.engine.providers import Failure
from infra.twin import aws_ecr
from infra.twin.aws_places import images_folder
from infra.twin.dockerfile import SCRATCH, DockerfileError, Stage, parse
from infra.twin.interface import Call, Json, LeftOut, Made, TwinError, TwinType, known
from infra.twin.provider import Package
from infra.twin.site import Site

ROOT: Final = Path(__file__).resolve().parents[2]
TREE: Final = "/tree"
"""Where the Dockerfiles put up what the image will have as its root."""
_INSTALL: Final = "docker/install.py"


def build(site: Site, inputs: Json) -> str:
    """Build an image and return its digest; one that is there is found again.

    Raises:
        TwinError: the Dockerfile cannot be read, or has no such target.
    """
    context = ROOT / str((inputs.get("context") or {}).get("location", "."))
    where = (inputs.get("dockerfile") or {}).get("location") or "Dockerfile"
    try:
        stages = parse((ROOT / str(where)).read_text(), dict(inputs.get("buildArgs") or {}))
    except (OSError, DockerfileError) as error:
        raise TwinError(f"{where}: {error}") from error
    target = inputs.get("target") or (list(stages)[-1] if stages else "")
    if target not in stages:
        raise TwinError(f"{where} has no target stage {target!r}; it has {', '.join(stages)}")
    folder = images_folder(site.run)
    folder.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".build-", dir=folder))
    try:
        image = _image(stages, stages[target], context, scratch / "root", list(inputs.get("platforms") or ()))
        (scratch / "root").mkdir(exist_ok=True)
        (scratch / "image.json").write_text(json.dumps(image, sort_keys=True))
        digest = _digest(scratch)
        scratch.chmod(0o755)
        if not (folder / digest).is_dir():
            scratch.rename(folder / digest)
        return f"sha256:{digest}"
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _image(stages: dict[str, Stage], stage: Stage, context: Path, root: Path, platforms: list[str]) -> Json:
    base = stage
    while base.base in stages:
        base = stages[base.base]
    recorded = [] if base.base == SCRATCH else [f"FROM {base.base}"]
    for instruction, words in stage.steps:
        source = next((word.removeprefix("--from=") for word in words if word.startswith("--from=")), "")
        if instruction == "COPY" and source in stages:
            recorded += _fill(stages, stages[source], context, root)
        else:
            recorded.append(f"{instruction} {' '.join(words)}")
    return {
        "platforms": platforms, "env": stage.env, "entry_point": stage.entry_point, "command": stage.command,
        "user": stage.user, "workdir": stage.workdir, "standin": base.base if base.base != SCRATCH else "",
        "recorded": recorded,
    }  # fmt: skip


def _fill(stages: dict[str, Stage], stage: Stage, context: Path, root: Path) -> list[str]:
    """Do the steps of a stage that fill the tree from the context; return those that are recorded alone."""
    chain = [stage]
    while chain[-1].base in stages:
        chain.append(stages[chain[-1].base])
    recorded = []
    ignored = _ignored(context)
    with tempfile.TemporaryDirectory(prefix="ztna-image-") as place:
        work = Path(place)
        for instruction, words in (step for each in reversed(chain) for step in each.steps):
            if instruction == "COPY":
                _copy(context, words, work, ignored)
            elif _INSTALL in words and "sources" in words:
                target = root / words[-1].removeprefix(TREE).lstrip("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                argv = [sys.executable, _INSTALL, "sources", str(target)]
                subprocess.run(
                    argv, cwd=work, check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": "0"}
                )
            else:
                recorded.append(f"RUN {' '.join(words)}")
    return recorded


def _copy(context: Path, words: list[str], work: Path, ignored: tuple[str, ...]) -> None:
    sources, target = [word for word in words[:-1] if not word.startswith("--")], words[-1]

    def skip(folder: str, names: list[str]) -> set[str]:
        return {name for name in names if any(fnmatch(name, pattern) for pattern in ignored)}

    for source in sources:
        path = context / source
        if path.is_dir():
            shutil.copytree(path, work / target, ignore=skip, dirs_exist_ok=True)
        elif path.is_file():
            into = work / target / path.name if target.endswith("/") else work / target
            into.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, into)
        else:
            raise TwinError(f"COPY {source}: it is not in the context {context}")


def _ignored(context: Path) -> tuple[str, ...]:
    """Names that the context leaves out at every depth; what it keeps is what COPY names."""
    path = context / ".dockerignore"
    lines = path.read_text().splitlines() if path.is_file() else []
    return tuple(line.removeprefix("**/") for line in lines if line.startswith("**/"))


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


class Image(TwinType):
    """An image in a registry."""

    type_name = "docker-build:index:Image"
    model = "our own files as the Dockerfile copies them, with how it is started; the rest is recorded"
    limits = (
        "nothing is pulled and no builder runs: interpreter and libraries are this machine's, wheels this checkout's",
        "an image that begins from another registry's is not run: a process that answers on its ports stands for it",
        "one build serves all platforms, and there are no layers: cache, compression and attestations are recorded",
    )
    in_place = frozenset(
        {"context", "dockerfile", "target", "buildArgs", "platforms", "tags", "registries", "push", "buildOnPreview"}
    )
    left_out: ClassVar = {
        name: LeftOut(why="an image has no layers here", harmless=(None, [], False))
        for name in ("cacheFrom", "cacheTo", "labels", "noCache", "pull")
    } | {
        "network": LeftOut(why="no builder runs", harmless=(None, "default")),
        "exports": LeftOut(why="an image has no layers here: pushed without compression", harmless=(None, [])),
    }

    def validate(self, inputs: Json) -> Iterator[Failure]:
        where = (inputs.get("dockerfile") or {}).get("location")
        if known(where) and not (ROOT / str(where)).is_file():
            yield Failure("dockerfile", f"there is no file {where}")
        if not inputs.get("tags"):
            yield Failure("tags", "an image that nobody can name is pushed nowhere: give a tag")

    def create(self, call: Call, inputs: Json) -> Made:
        digest = build(call.site, inputs)
        for tag in inputs["tags"]:
            aws_ecr.push(call.site, str(tag), digest, _credentials(inputs))
        return Made(id=digest.removeprefix("sha256:")[:12], outputs=self._outputs(inputs, digest))

    def _outputs(self, inputs: Json, digest: str) -> Json:
        return {
            **inputs,
            "digest": digest,
            "contextHash": digest.removeprefix("sha256:"),
            "ref": f"{inputs['tags'][0]}@{digest}",
        }

    def read(self, call: Call, outputs: Json) -> Json | None:
        there = all(aws_ecr.pushed(call.site, str(tag)) == outputs["digest"] for tag in outputs.get("tags") or ())
        return outputs if there else None

    def update(self, call: Call, outputs: Json, olds: Json, news: Json) -> Json:
        return self.create(call, news).outputs

    def computed(self, olds: Json, news: Json) -> frozenset[str]:
        rebuilt = ("context", "dockerfile", "target", "buildArgs", "platforms", "tags")
        return (
            frozenset({"digest", "contextHash", "ref"})
            if any(olds.get(key) != news.get(key) for key in rebuilt)
            else frozenset()
        )

    def delete(self, call: Call, outputs: Json, inputs: Json) -> None:
        return None  # what was pushed stays in its repository, for a rollback


def _credentials(inputs: Json) -> list[Any]:
    return [item.get("password") for item in inputs.get("registries") or ()]


PACKAGE: Final = Package(name="docker-build", types=(Image(),), config=frozenset({"host", "registries"}))
