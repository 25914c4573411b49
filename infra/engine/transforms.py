"""Transforms: functions of the program that rewrite registrations and function calls before the engine sees them."""

import threading

from pulumi.runtime.proto import alias_pb2, callback_pb2, resource_pb2

from infra.engine.callbacks import CallbackClient

Request = resource_pb2.RegisterResourceRequest
# Same name and meaning on both sides.
_LISTS = {
    "depends_on": "dependencies",
    "ignore_changes": "ignoreChanges",
    "replace_on_changes": "replaceOnChanges",
    "additional_secret_outputs": "additionalSecretOutputs",
    "hide_diff": "hideDiffs",
    "replace_with": "replace_with",
}
_TEXTS = {
    "version": "version",
    "provider": "provider",
    "plugin_download_url": "pluginDownloadURL",
    "deleted_with": "deletedWith",
    "import": "importId",
}
_MESSAGES = {"custom_timeouts": "customTimeouts", "hooks": "hooks", "replacement_trigger": "replacement_trigger"}


class Transforms:
    """Keeps the transforms of stack and resources and applies them: a resource's own first, then those of its
    parents from near to far, then the stack's."""

    def __init__(self, client: CallbackClient) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._stack: list[callback_pb2.Callback] = []
        self._invoke: list[callback_pb2.Callback] = []
        self._own: dict[str, list[callback_pb2.Callback]] = {}
        self._parents: dict[str, str] = {}

    def add(self, callback: callback_pb2.Callback) -> None:
        """A transform for every resource registered from now on."""
        with self._lock:
            self._stack.append(callback)

    def add_invoke(self, callback: callback_pb2.Callback) -> None:
        """A transform for every function call from now on."""
        with self._lock:
            self._invoke.append(callback)

    def apply(self, request: Request, urn: str) -> Request:
        """The registration as its transforms leave it.

        Raises:
            ResourceError: a transform failed.
        """
        with self._lock:
            chain = self._own[urn] = list(request.transforms)
            self._parents[urn] = request.parent
            chain = list(chain)
            parent = request.parent
            while parent:
                chain += self._own.get(parent, [])
                parent = self._parents.get(parent, "")
            chain += self._stack
        for callback in chain:
            request = self._apply_one(callback, request)
        return request

    def _apply_one(self, callback: callback_pb2.Callback, request: Request) -> Request:
        asked = resource_pb2.TransformRequest(
            type=request.type, name=request.name, custom=request.custom, parent=request.parent,
            properties=request.object, options=_options_of(request),
        )  # fmt: skip
        answer = resource_pb2.TransformResponse.FromString(self._client.invoke(callback, asked.SerializeToString()))
        result = Request()
        result.CopyFrom(request)
        result.object.CopyFrom(answer.properties)
        if answer.HasField("options"):
            _take_options(result, answer.options)
        return result

    def apply_invoke(self, request: resource_pb2.ResourceInvokeRequest) -> resource_pb2.ResourceInvokeRequest:
        """The function call as the transforms leave it."""
        with self._lock:
            chain = list(self._invoke)
        for callback in chain:
            options = resource_pb2.TransformInvokeOptions(
                provider=request.provider, version=request.version, plugin_download_url=request.pluginDownloadURL
            )
            asked = resource_pb2.TransformInvokeRequest(token=request.tok, args=request.args, options=options)
            answer = resource_pb2.TransformInvokeResponse.FromString(
                self._client.invoke(callback, asked.SerializeToString())
            )
            result = resource_pb2.ResourceInvokeRequest()
            result.CopyFrom(request)
            result.args.CopyFrom(answer.args)
            if answer.HasField("options"):
                result.provider, result.version = answer.options.provider, answer.options.version
            request = result
        return request


def _options_of(request: Request) -> resource_pb2.TransformResourceOptions:
    options = resource_pb2.TransformResourceOptions()
    for theirs, ours in _LISTS.items():
        getattr(options, theirs).extend(getattr(request, ours))
    for theirs, ours in _TEXTS.items():
        setattr(options, theirs, getattr(request, ours))
    for theirs, ours in _MESSAGES.items():
        if request.HasField(ours):  # type: ignore[arg-type]  # the stubs want literals
            getattr(options, theirs).CopyFrom(getattr(request, ours))
    if request.HasField("protect"):
        options.protect = request.protect
    if request.HasField("retainOnDelete"):
        options.retain_on_delete = request.retainOnDelete
    if request.deleteBeforeReplaceDefined:
        options.delete_before_replace = request.deleteBeforeReplace
    options.providers.update(request.providers)
    options.aliases.extend(request.aliases)
    options.aliases.extend(alias_pb2.Alias(urn=urn) for urn in request.aliasURNs)
    return options


def _take_options(request: Request, options: resource_pb2.TransformResourceOptions) -> None:
    for theirs, ours in _LISTS.items():
        request.ClearField(ours)  # type: ignore[arg-type]
        getattr(request, ours).extend(getattr(options, theirs))
    for theirs, ours in _TEXTS.items():
        setattr(request, ours, getattr(options, theirs))
    for theirs, ours in _MESSAGES.items():
        request.ClearField(ours)  # type: ignore[arg-type]
        if options.HasField(theirs):  # type: ignore[arg-type]
            getattr(request, ours).CopyFrom(getattr(options, theirs))
    request.ClearField("protect")
    if options.HasField("protect"):
        request.protect = options.protect
    request.ClearField("retainOnDelete")
    if options.HasField("retain_on_delete"):
        request.retainOnDelete = options.retain_on_delete
    request.deleteBeforeReplaceDefined = options.HasField("delete_before_replace")
    request.deleteBeforeReplace = options.delete_before_replace
    request.ClearField("providers")
    request.providers.update(options.providers)
    request.ClearField("aliasURNs")
    request.ClearField("aliases")
    request.aliases.extend(options.aliases)
