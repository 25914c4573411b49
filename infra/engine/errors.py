"""Errors of the engine: each says what went wrong and, where there is one, what to do about it."""


class EngineError(Exception):
    """Base of all errors that a caller of the engine handles.

    Args:
        message: one or more sentences, without a trailing newline.
        remedy: what the user can do; empty when there is nothing to advise.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message if not remedy else f"{message}\n{remedy}")
        self.message = message
        self.remedy = remedy


class ProjectError(EngineError):
    """Pulumi.yaml, Pulumi.<stack>.yaml or the virtual environment is wrong."""


class ConfigError(EngineError):
    """A configuration value is missing, of the wrong type or cannot be decrypted."""


class StateError(EngineError):
    """The state file cannot be read, decrypted or trusted."""


class LockedError(EngineError):
    """Another run holds the stack's lock."""


class UnsupportedError(EngineError):
    """The program asks for something that the embedded engine does not model."""


class ResourceError(EngineError):
    """A resource cannot be operated on: failed check, protected, duplicate URN, provider error."""


class DeploymentFailed(EngineError):
    """An operation ended with errors; everything done so far is recorded in the state."""


class Cancelled(EngineError):
    """The operation was interrupted; what was in flight has finished and is recorded."""


class CliError(EngineError):
    """The official pulumi command failed."""
