"""Pulumi's passphrase secrets: PBKDF2-SHA256 (1,000,000 rounds) makes an AES-256-GCM key.

Texts have the form `v1:<nonce, base64>:<ciphertext and tag, base64>`; the salt text is `v1:<salt, base64>:` followed by
such a text holding the word `pulumi`, which proves a passphrase right or wrong.
"""

import base64
import hashlib
import json
import os
import secrets
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from infra.engine.errors import ConfigError, StateError
from infra.engine.props import SECRET_SIG, SIG, Props, is_secret, rewrite

ROUNDS = 1_000_000
KEY_BYTES = 32
SALT_BYTES = 8
NONCE_BYTES = 12
_PROOF = "pulumi"


class Crypter:
    """Encrypts and decrypts under one passphrase and salt.

    The key takes 0.2 s to derive; that runs beside other work from construction on. Without a salt text a new salt is
    made.

    Args:
        eager: false leaves the key until something is encrypted or decrypted, which a preview of nothing never does.

    Raises:
        StateError: at first use, when the passphrase is not the one the salt text was made with.
    """

    def __init__(self, passphrase: str, salt_text: str = "", *, eager: bool = True) -> None:
        self._salt, self._proof = _parse_salt(salt_text) if salt_text else (secrets.token_bytes(SALT_BYTES), "")
        self._derived: Future[AESGCM] = Future()
        self._made_salt_text = salt_text
        self._lock = threading.Lock()
        # The same plaintext of the same resource keeps its ciphertext, so that an unchanged resource is unchanged text.
        self._known: dict[tuple[str, str], str] = {}
        self._derivation = threading.Thread(target=self._derive, args=(passphrase,), daemon=True, name="derive-key")
        self._starting = threading.Lock()
        if eager:
            self._derivation.start()

    @property
    def _key(self) -> "Future[AESGCM]":
        with self._starting:
            if self._derivation.ident is None:
                self._derivation.start()
        return self._derived

    def _derive(self, passphrase: str) -> None:
        try:
            aead = AESGCM(hashlib.pbkdf2_hmac("sha256", passphrase.encode(), self._salt, ROUNDS, KEY_BYTES))
            if self._proof and _open(aead, self._proof) != _PROOF:
                raise StateError(
                    "the passphrase does not fit: the stack's secrets were encrypted under another one",
                    "Set PULUMI_CONFIG_PASSPHRASE (or PULUMI_CONFIG_PASSPHRASE_FILE) to the passphrase of this stack.",
                )
            self._derived.set_result(aead)
        except BaseException as error:
            self._derived.set_exception(error)

    @property
    def salt_text(self) -> str:
        """The `encryptionsalt` that goes into state or configuration."""
        with self._lock:
            if not self._made_salt_text:
                proof = _seal(self._key.result(), _PROOF)
                self._made_salt_text = f"v1:{base64.b64encode(self._salt).decode()}:{proof}"
            return self._made_salt_text

    def encrypt(self, plaintext: str, context: str = "") -> str:
        """Encrypts; within one context an already seen plaintext gives the same text again."""
        known = self._known.get((context, plaintext))
        if known is None:
            known = self._known[context, plaintext] = _seal(self._key.result(), plaintext)
        return known

    def decrypt(self, ciphertext: str, context: str = "") -> str:
        """Decrypts.

        Raises:
            StateError: the text was damaged or comes from another passphrase.
        """
        plaintext = _open(self._key.result(), ciphertext)
        if plaintext is None:
            raise StateError("a secret cannot be decrypted: it was damaged or encrypted under another passphrase")
        if context:
            self._known.setdefault((context, plaintext), ciphertext)
        return plaintext

    def encrypt_props(self, props: Props, context: str) -> Props:
        """Properties as they stand in the state file: every secret holds `ciphertext`."""

        def visit(item: Any) -> Any:
            if is_secret(item) and "ciphertext" not in item:
                text = json.dumps(item["value"], separators=(",", ":"), ensure_ascii=False)
                return {SIG: SECRET_SIG, "ciphertext": self.encrypt(text, context)}
            return item

        result: Props = rewrite(props, visit)
        return result

    def decrypt_props(self, props: Props, context: str) -> Props:
        """The inverse of `encrypt_props`; `plaintext` (an export with shown secrets) is understood too."""

        def visit(item: Any) -> Any:
            if not is_secret(item):
                return item
            if "ciphertext" in item:
                inner = json.loads(self.decrypt(item["ciphertext"], context))
                return {SIG: SECRET_SIG, "value": self.decrypt_props({"": inner}, context)[""]}
            if "plaintext" in item:
                return {SIG: SECRET_SIG, "value": json.loads(item["plaintext"])}
            return item

        result: Props = rewrite(props, visit)
        return result


def _parse_salt(text: str) -> tuple[bytes, str]:
    parts = text.split(":", 2)
    if len(parts) != 3 or parts[0] != "v1":
        raise StateError(f"the encryption salt {text!r} is not understood", "Only Pulumi's passphrase form v1 is.")
    return base64.b64decode(parts[1]), parts[2]


def _seal(aead: AESGCM, plaintext: str) -> str:
    nonce = secrets.token_bytes(NONCE_BYTES)
    sealed = aead.encrypt(nonce, plaintext.encode(), None)
    return f"v1:{base64.b64encode(nonce).decode()}:{base64.b64encode(sealed).decode()}"


def _open(aead: AESGCM, text: str) -> str | None:
    version, _, rest = text.partition(":")
    nonce, _, sealed = rest.partition(":")
    try:
        if version != "v1":
            return None
        return aead.decrypt(base64.b64decode(nonce), base64.b64decode(sealed), None).decode()
    except (InvalidTag, ValueError):
        return None


def find_passphrase(state_dir: Path) -> tuple[str, str]:
    """The passphrase and, when one was just made, a sentence that says so.

    PULUMI_CONFIG_PASSPHRASE, then the file named by PULUMI_CONFIG_PASSPHRASE_FILE, then `<state_dir>/passphrase`,
    which is made (mode 0600) when it does not exist.

    Raises:
        ConfigError: the named file cannot be read.
    """
    if "PULUMI_CONFIG_PASSPHRASE" in os.environ:
        return os.environ["PULUMI_CONFIG_PASSPHRASE"], ""
    named = os.environ.get("PULUMI_CONFIG_PASSPHRASE_FILE", "")
    path = Path(named) if named else state_dir / "passphrase"
    try:
        return path.read_text().rstrip("\n"), ""
    except FileNotFoundError:
        if named:
            raise ConfigError(f"PULUMI_CONFIG_PASSPHRASE_FILE names {named}, which does not exist") from None
    except OSError as error:
        raise ConfigError(f"the passphrase file {path} cannot be read: {error.strerror}") from error
    state_dir.mkdir(parents=True, exist_ok=True)
    made = secrets.token_urlsafe(24)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(made + "\n")
    note = f"Made a passphrase for this project's secrets in {path}; PULUMI_CONFIG_PASSPHRASE overrides it."
    return made, note
