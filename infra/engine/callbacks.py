"""Calls functions of the program (transforms, hooks) that the SDK serves on loopback under tokens."""

import threading
from typing import Any

import grpc
from pulumi.runtime.proto import callback_pb2, callback_pb2_grpc

from infra.engine.errors import ResourceError
from infra.engine.plugins import CHANNEL_OPTIONS


class CallbackClient:
    """Keeps one channel per target."""

    def __init__(self) -> None:
        self._channels: dict[str, grpc.Channel] = {}
        self._lock = threading.Lock()

    def invoke(self, callback: callback_pb2.Callback, request: bytes) -> bytes:
        """Calls the function; request and result are serialised messages of the function's kind.

        Raises:
            ResourceError: the function raised, or the program is gone.
        """
        with self._lock:
            channel = self._channels.get(callback.target)
            if channel is None:
                channel = grpc.insecure_channel(callback.target, options=CHANNEL_OPTIONS)
                self._channels[callback.target] = channel
        stub = callback_pb2_grpc.CallbacksStub(channel)
        try:
            response = stub.Invoke(callback_pb2.CallbackInvokeRequest(token=callback.token, request=request))
        except grpc.RpcError as error:
            call: Any = error
            raise ResourceError(f"a callback of the program failed: {call.details()}") from None
        return bytes(response.response)

    def close(self) -> None:
        """Closes all channels."""
        with self._lock:
            for channel in self._channels.values():
                channel.close()
            self._channels.clear()
