"""`python -m ztna`: the role commands, all that a relay host or a connector needs."""

from ztna.cli import main

if __name__ == "__main__":
    main()
