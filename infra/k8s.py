"""What the Kubernetes objects of a stack and whoever renders them must agree on: keys, annotations, digests. Pure."""

import hashlib
import json
from collections.abc import Mapping
from typing import Final

CERTIFICATE_FILES: Final = {"cert.pem": "tls.crt", "key.pem": "tls.key", "ca.pem": "ca.crt"}
"""Name of a PEM file beside a role's configuration, and its key in a Secret of type kubernetes.io/tls."""
MEMBER_ANNOTATION: Final = "ztna/certificates-of"
"""On a Secret, and on a pod that mounts one: whose certificates it holds."""
CONFIG_DIGEST: Final = "ztna/config-digest"
CERTIFICATES_DIGEST: Final = "ztna/certificates-digest"
"""Annotations of a pod: another value is another pod template, so the Deployment rolls."""


def config_digest(files: Mapping[str, str]) -> str:
    """Return 16 hex digits that change when a file does."""
    return hashlib.sha256(json.dumps(dict(files), sort_keys=True).encode()).hexdigest()[:16]


def certificates_digest(files: Mapping[str, str]) -> str:
    """Return 16 hex digits that change when a certificate or the CA does. The key is left out: it changes with them."""
    return config_digest({name: text for name, text in files.items() if name != "key.pem"})


def secret_data(files: Mapping[str, str]) -> dict[str, str]:
    """Return PEM files under the keys that a Secret of type kubernetes.io/tls must have, and ca.crt beside them."""
    return {key: files[path] for path, key in CERTIFICATE_FILES.items()}
