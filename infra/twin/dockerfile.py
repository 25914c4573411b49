"""What a Dockerfile says, as far as the project's own use it: stages, what they copy, and how their images are started.

Source: https://docs.docker.com/reference/dockerfile/
"""

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

SCRATCH: Final = "scratch"
_VARIABLE: Final = re.compile(r"\$\{?(\w+)\}?")


class DockerfileError(ValueError):
    """A Dockerfile says what is not understood."""


@dataclass(kw_only=True, slots=True)
class Stage:
    """One stage.

    Attributes:
        base: image that it begins from, or name of another stage.
        steps: (instruction, words) of COPY and RUN in their order; options such as `--from=X` come first.
        env, entry_point, command, user, workdir: of its image, those of its base among them.
    """

    name: str
    base: str
    steps: list[tuple[str, list[str]]] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    entry_point: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    user: str = ""
    workdir: str = "/"


def parse(text: str, arguments: Mapping[str, str]) -> dict[str, Stage]:
    """Return the stages of a Dockerfile by name, or by number where they have none.

    Args:
        text: of the file.
        arguments: build arguments given.

    Raises:
        DockerfileError: an instruction is not understood.
    """
    stages: dict[str, Stage] = {}
    known: dict[str, str] = {}
    stage: Stage | None = None
    for instruction, rest in _instructions(text):
        if instruction == "ARG":
            name, _, default = rest.partition("=")
            known[name] = arguments.get(name, known.get(name, default))
            continue
        if instruction == "FROM":
            words = _filled(rest, known).split()
            name = words[2] if len(words) == 3 else str(len(stages))
            stage = _begun(name, words[0] if words else "", stages)
            stages[name] = stage
            continue
        if stage is None:
            raise DockerfileError(f"{instruction} stands before the first FROM")
        _apply(stage, instruction, rest, known)
    return stages


def _instructions(text: str) -> list[tuple[str, str]]:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    found = []
    for line in joined.splitlines():
        if line.strip():
            word, _, rest = line.strip().partition(" ")
            found.append((word.upper(), rest.strip()))
    return found


def _filled(text: str, known: Mapping[str, str]) -> str:
    return _VARIABLE.sub(lambda found: known.get(found[1], found[0]), text)


def _begun(name: str, base: str, stages: Mapping[str, Stage]) -> Stage:
    below = stages.get(base)
    if below is None:
        return Stage(name=name, base=base)
    return Stage(
        name=name, base=base, env=dict(below.env), entry_point=list(below.entry_point), command=list(below.command),
        user=below.user, workdir=below.workdir,
    )  # fmt: skip


def _apply(stage: Stage, instruction: str, rest: str, known: Mapping[str, str]) -> None:
    match instruction:
        case "COPY" | "RUN":
            stage.steps.append((instruction, _words(rest)))
        case "ENV":
            for word in shlex.split(_filled(rest, {**known, **stage.env})):
                name, equals, value = word.partition("=")
                if not equals:
                    raise DockerfileError(f"ENV {rest}: write NAME=VALUE")
                stage.env[name] = value
        case "ENTRYPOINT":
            stage.entry_point, stage.command = _words(rest), []
        case "CMD":
            stage.command = _words(rest)
        case "USER":
            stage.user = rest
        case "WORKDIR":
            stage.workdir = rest
        case "EXPOSE" | "STOPSIGNAL" | "HEALTHCHECK" | "LABEL":
            pass  # a task definition says it itself, or nobody asks
        case _:
            raise DockerfileError(f"{instruction} is not understood")


def _words(rest: str) -> list[str]:
    if rest.startswith("["):
        try:
            return [str(word) for word in json.loads(rest)]
        except ValueError as error:
            raise DockerfileError(f"{rest}: {error}") from error
    return shlex.split(rest)
