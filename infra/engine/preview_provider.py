"""The provider that previews are served by where a package's own plugin is not installed.

It knows what the SDK says of inputs and nothing of the cloud: arguments are checked, outputs are the inputs and unknown
for the rest, functions are answered from recordings or declared unknown. It never makes, reads or removes anything.
"""

from collections.abc import Callable

from infra.engine.argcheck import Report, check
from infra.engine.errors import ResourceError, UnsupportedError
from infra.engine.fixtures import recorded
from infra.engine.props import UNKNOWN, Props
from infra.engine.providers import Diff, Existing, Failure, Outcome
from infra.engine.sdkschema import Sdk
from infra.engine.urn import name_of, type_of

REMEDY = "Use the official pulumi CLI (--engine pulumi), or --real with pulumi-resource-{package} on PATH."


class UnknownAnswer(ResourceError):
    """A function's answer is not known in this preview."""


class PreviewProvider:
    """Serves one package in previews.

    Args:
        sdk: where the package's arguments are read.
        note: gets each sentence (once) on what this preview does not know.
    """

    def __init__(self, sdk: Sdk, note: Callable[[str], None]) -> None:
        self._sdk, self._package = sdk, sdk.package
        self._note_to = note
        self._noted: set[str] = set()

    def check_config(self, urn: str, olds: Props, news: Props) -> tuple[Props, list[Failure]]:
        return news, self._report(urn, news)

    def diff_config(self, urn: str, olds: Props, news: Props) -> Diff:
        return Diff(None)

    def configure(self, urn: str, id_: str, inputs: Props) -> None:
        return None

    def check(self, urn: str, olds: Props, news: Props) -> tuple[Props, list[Failure]]:
        return news, self._report(urn, news)

    def diff(self, urn: str, id_: str, old_inputs: Props, old_outputs: Props, news: Props, ignored: list[str]) -> Diff:
        return Diff(None)

    def create(self, urn: str, inputs: Props, timeout_s: float, preview: bool) -> Outcome:
        if not preview:
            raise self._refusal(f"create {type_of(urn)} {name_of(urn)!r}")
        return Outcome("", self._outputs(urn, inputs))

    def read(self, urn: str, id_: str, inputs: Props, outputs: Props, timeout_s: float) -> Outcome:
        self._note(f"{type_of(urn)} {name_of(urn)!r} is read as unknown: only its provider can read it")
        return Outcome(id_, self._outputs(urn, {**outputs, **inputs}))

    def update(self, old: Existing, news: Props, timeout_s: float, ignored: list[str], preview: bool) -> Outcome:
        if not preview:
            raise self._refusal(f"update {type_of(old.urn)} {name_of(old.urn)!r}")
        # What else a change brings about is not known, so nothing is said to stay as it was.
        return Outcome(old.id, self._outputs(old.urn, news))

    def delete(self, old: Existing, timeout_s: float) -> None:
        raise self._refusal(f"delete {type_of(old.urn)} {name_of(old.urn)!r}")

    def invoke(self, function: str, args: Props, preview: bool) -> tuple[Props, list[Failure]]:
        """A recorded answer.

        Raises:
            UnknownAnswer: there is none; the caller declares the answer unknown.
        """
        answer = recorded(function, args)
        if answer is None:
            # Names alone: the SDK opens secrets before it calls a function.
            self._note(f"{function}({', '.join(sorted(args))}) is unknown in this preview: only the provider can tell")
            raise UnknownAnswer(f"the answer of {function} is not known without the provider of {self._package!r}")
        self._note(f"{function} is answered from a recording ({answer.source})")
        return answer.result, []

    def cancel(self) -> None:
        return None

    def close(self) -> None:
        return None

    def _outputs(self, urn: str, known: Props) -> Props:
        """All outputs by name, so that those that are secret by declaration are so while unknown."""
        return {**dict.fromkeys(self._sdk.outputs(type_of(urn)), UNKNOWN), **known}

    def _report(self, urn: str, inputs: Props) -> list[Failure]:
        report: Report = check(self._sdk, type_of(urn), inputs)
        if not report.known and not report.failures:
            self._note(f"{type_of(urn)} is not a type of the SDK: its arguments are not checked in this preview")
        for warning in report.warnings:
            self._note(f"{type_of(urn)} {name_of(urn)!r}: {warning}")
        return report.failures

    def _note(self, sentence: str) -> None:
        if sentence not in self._noted:
            self._noted.add(sentence)
            self._note_to(sentence)

    def _refusal(self, what: str) -> UnsupportedError:
        return UnsupportedError(
            f"the embedded engine cannot {what}: it has no provider for package {self._package!r}, only a preview",
            REMEDY.format(package=self._package),
        )
