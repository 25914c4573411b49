"""Which provider instance stands behind a provider reference (`<urn>::<id>`)."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress

from infra.engine import urn as urns
from infra.engine.builtin import BuiltinProvider
from infra.engine.errors import ResourceError
from infra.engine.props import UNKNOWN, Props, has_unknown
from infra.engine.providers import Provider
from infra.engine.state import ResourceState


class Registry:
    """Starts, configures and keeps providers.

    Args:
        start_plugin: starts the provider of a package.
        builtin: serves the package `pulumi`.
        olds: the resources of the last run: their provider resources say how old resources are reached.
    """

    def __init__(
        self, start_plugin: Callable[[str], Provider], builtin: BuiltinProvider, olds: list[ResourceState]
    ) -> None:
        self._start_plugin = start_plugin
        self._builtin = builtin
        self._olds = {urns.provider_reference(item.urn, item.id): item for item in olds if urns.is_provider(item.type)}
        self._active: dict[str, Provider] = {}
        self._unconfigured: dict[str, Provider] = {}
        self._early: dict[str, Future[Provider]] = {}
        self._all: list[Provider] = []
        self._lock = threading.RLock()
        self._closed = False

    def start_early(self, package: str) -> None:
        """Starts a plugin beside other work, to be there when it is wanted."""
        future: Future[Provider] = Future()
        self._early[package] = future

        def start() -> None:
            try:
                future.set_result(self._start_plugin(package))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=start, daemon=True, name=f"start-{package}").start()

    def find(self, state: ResourceState) -> Provider:
        """The provider of a resource; of a provider resource, the not yet configured plugin that checks its config.

        Raises:
            ResourceError: it is not known, or did not start.
        """
        package = urns.package_of(state.type)
        if package == "pulumi":
            return self._builtin
        with self._lock:
            if urns.is_provider(state.type):
                if state.urn not in self._unconfigured:
                    self._unconfigured[state.urn] = self._start(package)
                return self._unconfigured[state.urn]
            if state.provider not in self._active:
                self._load(state)
            return self._active[state.provider]

    def activate(self, state: ResourceState) -> None:
        """Configures the plugin behind a provider resource, unless its configuration is not known yet (preview)."""
        if urns.package_of(state.type) == "pulumi":
            return
        with self._lock:
            reference = urns.provider_reference(state.urn, state.id or UNKNOWN)
            provider = self._unconfigured.pop(state.urn, None) or self._start(urns.package_of(state.type))
            if not has_unknown(state.inputs):
                provider.configure(state.urn, state.id, _config(state.inputs))
            self._active[reference] = provider

    def _load(self, state: ResourceState) -> None:
        recorded = self._olds.get(state.provider)
        if recorded is None:
            raise ResourceError(f"{state.urn} refers to a provider that is not known: {state.provider!r}")
        provider = self._start(urns.package_of(recorded.type))
        provider.configure(recorded.urn, recorded.id, _config(recorded.inputs))
        self._active[state.provider] = provider

    def _start(self, package: str) -> Provider:
        if self._closed:
            raise ResourceError(f"the provider of package {package!r} is wanted after the operation has ended")
        early = self._early.pop(package, None)
        provider = early.result() if early else self._start_plugin(package)
        self._all.append(provider)
        return provider

    def cancel(self) -> None:
        """Passes the wish to stop on to every provider."""
        for provider in list(self._all):
            with suppress(Exception):
                provider.cancel()

    def close(self) -> None:
        """Ends all providers."""
        with self._lock:
            self._closed = True
            for future in self._early.values():
                with suppress(Exception):
                    self._all.append(future.result())
            self._early.clear()
        for provider in self._all:
            provider.close()
        self._all.clear()


def _config(inputs: Props) -> Props:
    return {key: value for key, value in inputs.items() if not key.startswith("__")}
