"""Where `pulumi` starts the program; it goes on in stacks/ (Pulumi.yaml says why it begins here)."""

import pulumi

from stacks.__main__ import main

main(pulumi.get_stack())
