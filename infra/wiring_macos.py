"""An agent's files for a Mac and for shells: property list, configuration profile, environment file. Pure.

The deployed macOS app is a packet-tunnel provider of NetworkExtension. It reads six keys of `providerConfiguration`:
`serverHost`, `serverPort`, `serviceId`, `services` (of `id` and `virtualIp`), `verifyPeer`, `caCertPath`. It holds no
client certificate, so a stack lets it in only with `allowAnonymousV1`. None of these files holds a private key but
agent.json.
"""

import json
import plistlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from infra import wiring
from infra.wiring import JsonObject

CA_DIR: Final = "/Library/Application Support/ztna"


@dataclass(frozen=True, kw_only=True, slots=True)
class MacosApp:
    """The app as it was built and signed by whoever deploys it; nothing here can be known from the stack.

    Attributes:
        bundle_id: bundle identifier of the app that contains the packet tunnel.
        tunnel_id: that of the tunnel itself, where it is a system extension or one of several.
        designated_requirement: code signing requirement of a system extension (`codesign -d -r - TUNNEL`).
        ca_cert_path: where the app reads the CA; a sandboxed tunnel reads nothing outside its containers.
    """

    bundle_id: str = "com.example.ztna"
    tunnel_id: str | None = None
    designated_requirement: str | None = None
    ca_cert_path: str | None = None


def provider_configuration(profile: Mapping[str, Any], app: MacosApp = MacosApp()) -> JsonObject:
    """Return what the app reads, from the content of agent.json. The first service is the one it punches for."""
    server = profile["intermediate_server"]
    services = [{"id": service["id"], "virtualIp": service["virtual_ip"]} for service in profile["services"]]
    return {
        "serverHost": server["host"],
        "serverPort": server["port"],
        "serviceId": services[0]["id"],
        "services": services,
        "verifyPeer": True,
        "caCertPath": app.ca_cert_path or f"{CA_DIR}/{profile['stack']}-ca.pem",
    }


def agent_plist(profile: Mapping[str, Any], app: MacosApp = MacosApp()) -> str:
    """Return the app's settings as an XML property list, as `defaults import BUNDLE-ID agent.plist` takes it."""
    return plistlib.dumps(provider_configuration(profile, app)).decode()


def mobileconfig(profile: Mapping[str, Any], app: MacosApp = MacosApp()) -> str:
    """Return a configuration profile with one VPN payload for the app, as an XML property list.

    The type is `VPN` with a packet tunnel: `TransparentProxy` is for flows of applications. `VendorConfig` becomes the
    tunnel's `providerConfiguration`. Identifiers follow from stack and agent, so that installing it again replaces it.

    Source: https://developer.apple.com/documentation/devicemanagement/vpn
    """
    settings = provider_configuration(profile, app)
    identifier = f"ztna.{profile['stack']}.{profile['name']}"
    title = f"ztna {profile['stack']} ({profile['name']})"
    tunnel = {
        "RemoteAddress": settings["serverHost"],
        "ProviderType": "packet-tunnel",
        "ProviderBundleIdentifier": app.tunnel_id,
        "ProviderDesignatedRequirement": app.designated_requirement,
    }
    payload = {
        **_payload("com.apple.vpn.managed", f"{identifier}.vpn", title),
        "UserDefinedName": title,
        "VPNType": "VPN",
        "VPNSubType": app.bundle_id,
        "VPN": {key: value for key, value in tunnel.items() if value is not None},
        "VendorConfig": settings,
    }
    return plistlib.dumps({**_payload("Configuration", identifier, title), "PayloadContent": [payload]}).decode()


def agent_files(profile: Mapping[str, Any], app: MacosApp = MacosApp()) -> dict[str, str]:
    """Return the files of an agent by name, from a complete profile. The whole is secret, for agent.json is."""
    return {
        "agent.json": json.dumps(profile, indent=1),
        "agent.env": wiring.agent_environment(profile),
        "agent.plist": agent_plist(profile, app),
        "agent.mobileconfig": mobileconfig(profile, app),
        "ca.pem": str(profile["ca_cert_pem"]),
    }


def _payload(kind: str, identifier: str, title: str) -> JsonObject:
    return {
        "PayloadType": kind,
        "PayloadVersion": 1,
        "PayloadIdentifier": identifier,
        "PayloadUUID": str(uuid.uuid5(uuid.NAMESPACE_URL, identifier)).upper(),
        "PayloadDisplayName": title,
    }
