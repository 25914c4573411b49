"""A test tool: a small stand-in for DigitalOcean's HTTP API on loopback, for the official provider and for tests.

It keeps account, keys, VPCs, droplets, reserved addresses, firewalls, domains, tags and actions in memory, answers in
the forms of the API (https://docs.digitalocean.com/reference/api/), and refuses what the API refuses where a program
could get it wrong. It starts no machine: a droplet reports an address where a test has an sshd. Nothing it says proves
that DigitalOcean would agree.

    python -m tests.support.fake_do --port 0 --ssh-host 127.0.0.1
"""

from tests.support.fake_do.server import Failure, FakeDo

__all__ = ["Failure", "FakeDo"]
