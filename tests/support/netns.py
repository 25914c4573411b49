"""Run a test's body in a network namespace of its own, without a name and gone with the thread that made it."""

import ctypes
import os
import threading
from collections.abc import Callable
from typing import TypeVar

from pyroute2 import IPRoute

CLONE_NEWNET = 0x40000000
T = TypeVar("T")


def enter_new_namespace() -> None:
    """Move the calling thread into a new namespace with its loopback up; needs CAP_SYS_ADMIN."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), f"unshare: {os.strerror(ctypes.get_errno())}")
    with IPRoute() as netlink:
        netlink.link("set", index=netlink.link_lookup(ifname="lo")[0], state="up")


def in_new_namespace(body: Callable[[], T]) -> T:
    """Call `body` in a thread that lives in a new namespace; its result or exception is passed on."""
    result: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            enter_new_namespace()
            result.append(body())
        except BaseException as exc:
            failure.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]
