"""First process of a role's container: runs `python -m ztna ARGUMENTS`, with the profile from the environment if given.

`ZTNA_PROFILE` holds a whole configuration as JSON with its PEMs inline, as a secret store injects it. It is put into an
anonymous file in memory, whose name takes the place of the argument of `--config`, and removed from the environment:
it is never written to a disk, and child processes do not inherit it as a variable. Without it the arguments are passed
on as they are, for files mounted from a Secret. Standard library alone.

Source: memfd_create(2); /proc/self/fd in proc(5).
"""

import os
import sys

VARIABLE = "ZTNA_PROFILE"


def arguments(given: list[str], profile: str | None) -> list[str]:
    """Return the arguments of `python -m ztna`; a profile is opened as a file in memory that outlives the exec."""
    if profile is None:
        return given
    if not given:
        raise SystemExit(
            f"{VARIABLE} is set, but no role is named: give intermediate, connector or agent as the command"
        )
    descriptor = os.memfd_create("ztna-profile", 0)  # without MFD_CLOEXEC: the role reads it after the exec
    with os.fdopen(os.dup(descriptor), "w", encoding="utf-8") as file:
        file.write(profile)
    os.set_inheritable(descriptor, True)
    kept = list(given)
    for index, word in enumerate(given):
        if word in ("--config", "-c"):
            del kept[index : index + 2]
            break
    return [*kept, "--config", f"/proc/self/fd/{descriptor}"]


def main() -> None:
    """Become the role."""
    command = [sys.executable, "-m", "ztna", *arguments(sys.argv[1:], os.environ.get(VARIABLE))]
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    os.execve(command[0], command, environment)  # noqa: S606 - no shell is what is wanted


if __name__ == "__main__":
    main()
