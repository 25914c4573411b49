"""The one Pulumi program of the project: runs the stack that was asked for and exports what it promises."""

import importlib

import pulumi

from infra.config import ConfigError
from infra.outputs import EXPORT_KEYS, SECRET_KEYS, to_exports

STACKS = {
    "lab": "stacks.lab",
    "do-nyc1": "stacks.do_nyc1",
    "aws-us-east-2": "stacks.aws_us_east_2",
    "pi-home": "stacks.pi_home",
}


def main(stack: str) -> None:
    """Run a stack's program and export its outputs under the keys of infra/outputs.py."""
    if stack not in STACKS:
        raise pulumi.RunError(f"there is no stack {stack!r}; there are: {', '.join(sorted(STACKS))}")
    try:
        exports = importlib.import_module(STACKS[stack]).program().apply(to_exports)
    except ConfigError as error:
        raise pulumi.RunError(str(error)) from None  # shown as it stands, without a traceback
    for key in EXPORT_KEYS:
        mark = pulumi.Output.secret if key in SECRET_KEYS else pulumi.Output.unsecret
        pulumi.export(key, mark(exports[key]))


if __name__ == "__main__":
    main(pulumi.get_stack())
