"""Decides what is to be done for each registration: the planner. It asks providers to check and diff, changes nothing.

A registration becomes one of:
same | update | create | create-replacement (the old one is deleted after the program) |
delete-replaced... then create-replacement (delete before replace, dependents first) | read.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from infra.engine import aliases, paths
from infra.engine import urn as urns
from infra.engine.errors import ResourceError, UnsupportedError
from infra.engine.goal import Goal
from infra.engine.props import UNKNOWN, Props, changed_paths, equal
from infra.engine.providers import Diff, Provider
from infra.engine.state import ResourceState


class Op(StrEnum):
    """What a step does."""

    SAME = "same"
    CREATE = "create"
    UPDATE = "update"
    REPLACE = "create-replacement"
    DELETE_REPLACED = "delete-replaced"
    DELETE = "delete"
    DISCARD = "discard"
    READ = "read"
    REFRESH = "refresh"


@dataclass(slots=True, eq=False)
class Step:
    """One thing to do.

    Attributes:
        old: the recorded resource, None when it is new.
        new: the wanted resource, None when it goes.
        keep_old: create-replacement only: the old one stays, marked `delete`, until the program has ended.
        keys: properties that force the replacement.
        changes: property paths that differ.
        found: refresh only: `same`, `update` or `delete`, after what the provider said.
    """

    op: Op
    old: ResourceState | None = None
    new: ResourceState | None = None
    keep_old: bool = False
    keys: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    found: str = ""

    @property
    def state(self) -> ResourceState:
        """The resource in question: the wanted one, else the recorded one."""
        state = self.new or self.old
        assert state is not None
        return state


class Planner:
    """Plans the steps of one run. Not thread-safe: registrations are planned one at a time.

    Args:
        olds: the resources of the last run, in their order.
        find_provider: the provider behind a reference; for a provider resource itself (reference empty, type given)
            the one that checks and diffs provider configuration.
        preview: unknown values are expected.
    """

    def __init__(
        self,
        project: str,
        stack: str,
        olds: list[ResourceState],
        find_provider: Callable[[ResourceState], Provider],
        *,
        preview: bool,
    ) -> None:
        self._project, self._stack, self._preview = project, stack, preview
        self._olds = olds
        self._old_by_urn = {state.urn: state for state in olds if not state.delete}
        self._find_provider = find_provider
        self._dependent_keys: dict[str, tuple[str, ...]] = {}
        self.registered: dict[str, ResourceState] = {}
        # Former URN to present one, and the other way round, of what this run has matched by alias.
        self.aliased: dict[str, str] = {}
        self._renamed: dict[str, str] = {}
        self.deleted: set[str] = set()
        self.replaced: set[str] = set()
        self._claimed_by: dict[str, str] = {}
        self._gone: set[ResourceState] = set()

    # -- registrations ---------------------------------------------------------------------------------------------

    def plan(self, goal: Goal) -> list[Step]:
        """The steps for a registration, to be carried out in this order.

        Raises:
            ResourceError: duplicate URN, unknown parent, failed check, protected resource in the way.
        """
        urn = self.claim(goal)
        old = self._match(urn, goal)
        new = self._wanted(urn, goal, old)
        self.registered[urn] = new
        if old is not None and not old.external:
            new.inputs = paths.keep_old(new.inputs, old.inputs, goal.ignore_changes)
        recreating = urn in self.deleted and old is not None
        fresh = old is None or recreating or old.external
        new.inputs = self._check(new, goal.inputs if fresh else new.inputs, {} if old is None or fresh else old.inputs)
        if old is None:
            return [Step(Op.CREATE, new=new)]
        if recreating:
            self.deleted.discard(urn)
            self.replaced.add(urn)
            return [Step(Op.REPLACE, old, new, keys=self._dependent_keys.get(urn, ()))]
        if old.external:
            return [Step(Op.REPLACE, old, new, keep_old=False)]
        return self._compare(goal, old, new)

    def plan_read(self, goal: Goal, id_: str) -> Step:
        """The step for a `.get()`; `id_` may be unknown in a preview."""
        urn = self.claim(goal)
        old = self._match(urn, goal)
        new = self._wanted(urn, goal, old)
        new.external, new.id = True, id_
        self.registered[urn] = new
        owned = old is not None and not old.external
        return Step(Op.READ, old, new, keep_old=owned)

    def urn_of(self, goal: Goal) -> str:
        """The URN that a registration has."""
        return urns.make(self._stack, self._project, goal.parent, goal.type, goal.name)

    def claim(self, goal: Goal) -> str:
        """The URN of a registration, which must be the first with it in this run."""
        if goal.parent and goal.parent not in self.registered:
            raise ResourceError(f"the parent of {goal.type} {goal.name!r} is not registered: {goal.parent}")
        urn = self.urn_of(goal)
        if urn in self.registered:
            raise ResourceError(f"duplicate resource URN {urn!r}", "Give one of the two another name.")
        if urn in self._claimed_by:
            raise ResourceError(f"{urn!r} is registered although {self._claimed_by[urn]!r} took it over as an alias")
        return urn

    def _match(self, urn: str, goal: Goal) -> ResourceState | None:
        if urn in self._old_by_urn:
            return self._old_by_urn[urn]
        for alias in aliases.expand(urn, goal.parent, goal.aliases, self._renamed):
            old = self._old_by_urn.get(alias)
            if old is None:
                continue
            if alias in self.registered or alias in self._claimed_by:
                raise ResourceError(f"{urn!r} claims {alias!r} as an alias, which is already taken in this program")
            self._claimed_by[alias] = urn
            self.aliased[alias] = urn
            self._renamed[urn] = alias
            return old
        return None

    def _wanted(self, urn: str, goal: Goal, old: ResourceState | None) -> ResourceState:
        return ResourceState(
            urn=urn,
            type=goal.type,
            custom=goal.custom,
            inputs=goal.inputs,
            parent=goal.parent,
            protect=goal.protect,
            dependencies=goal.dependencies,
            provider=goal.provider,
            property_dependencies=goal.property_dependencies,
            additional_secret_outputs=goal.additional_secret_outputs,
            custom_timeouts=goal.timeouts_s,
            retain_on_delete=goal.retain_on_delete,
            deleted_with=goal.deleted_with,
            created=old.created if old else "",
            modified=old.modified if old else "",
            source_position=goal.source_position,
            ignore_changes=goal.ignore_changes,
            replace_on_changes=goal.replace_on_changes,
            resource_hooks=goal.hooks,
        )

    def _check(self, new: ResourceState, news: Props, olds: Props) -> Props:
        if not new.custom:
            return news
        provider = self._find_provider(new)
        if urns.is_provider(new.type):
            checked, failures = provider.check_config(new.urn, olds, news)
        else:
            checked, failures = provider.check(new.urn, olds, news)
        if failures:
            reasons = "; ".join(f"{item.property}: {item.reason}".removeprefix(": ") for item in failures)
            raise ResourceError(f"{new.type} {urns.name_of(new.urn)!r} is not valid: {reasons}")
        return checked

    # -- the comparison of old and new -----------------------------------------------------------------------------

    def _compare(self, goal: Goal, old: ResourceState, new: ResourceState) -> list[Step]:
        diff = self._diff(old, new)
        keys = _forced(diff, goal.replace_on_changes, bool(old.init_errors))
        changed = bool(diff.changes) or bool(keys)
        # Shown to people; the provider's own list names what it thinks relevant.
        changes = diff.changed or tuple(changed_paths(old.inputs, new.inputs))
        if (changed and keys) or old.pending_replacement:
            return self._replace(goal, old, new, diff, keys, changes)
        if changed or old.init_errors:
            return [Step(Op.UPDATE, old, new, changes=changes)]
        return [Step(Op.SAME, old, new)]

    def _diff(self, old: ResourceState, new: ResourceState) -> Diff:
        if new.deleted_with and new.deleted_with in self.replaced:
            return Diff(True, replaces=("deletedWith",), changed=("deletedWith",))
        if self._provider_changed(old.provider, new.provider):
            return Diff(True, replaces=("provider",), changed=("provider",))
        if not new.custom:
            return Diff(not equal(old.inputs, new.inputs))
        return self._ask_diff(old, new.inputs, new)

    def _ask_diff(self, old: ResourceState, news: Props, new: ResourceState) -> Diff:
        provider = self._find_provider(new)
        if urns.is_provider(new.type):
            diff = provider.diff_config(new.urn, old.inputs, news)
        else:
            diff = provider.diff(old.urn, old.id, old.inputs, old.outputs, news, new.ignore_changes)
        if diff.changes is None:
            # A provider that leaves it to us: any difference of inputs is a change.
            differing = changed_paths(old.inputs, paths.keep_old(news, old.inputs, new.ignore_changes))
            return Diff(bool(differing), diff.replaces, tuple(differing), diff.delete_before_replace)
        return diff

    def _provider_changed(self, old: str, new: str) -> bool:
        if old == new or not old or not new:
            return False
        (old_urn, old_id), (new_urn, new_id) = urns.parse_reference(old), urns.parse_reference(new)
        if self.aliased.get(old_urn, old_urn) == new_urn and old_id == new_id:
            return False
        both_default = all(urns.name_of(urn).startswith("default") for urn in (old_urn, new_urn))
        return not (both_default and urns.type_of(old_urn) == urns.type_of(new_urn))

    # -- replacement -----------------------------------------------------------------------------------------------

    def _replace(
        self, goal: Goal, old: ResourceState, new: ResourceState, diff: Diff, keys: tuple[str, ...],
        changes: tuple[str, ...],
    ) -> list[Step]:  # fmt: skip
        if old.protect and new.protect:
            raise _protected(new.urn, "replace")
        self.replaced.add(new.urn)
        if new.custom:
            new.inputs = self._check(new, goal.inputs, {})
        wants_delete_first = diff.delete_before_replace
        if goal.delete_before_replace is not None:
            wants_delete_first = goal.delete_before_replace
        if not (wants_delete_first or old.pending_replacement):
            return [Step(Op.REPLACE, old, new, keep_old=True, keys=keys, changes=changes)]
        steps = self._delete_dependents(old)
        if not old.pending_replacement:
            self._gone.add(old)
            steps.append(Step(Op.DELETE_REPLACED, old))
        return [*steps, Step(Op.REPLACE, old, new, keys=keys, changes=changes)]

    def _delete_dependents(self, root: ResourceState) -> list[Step]:
        """Deletes, last dependents first, all that could not outlive the deletion of `root`."""
        replaced_urns = {root.urn}
        doomed: list[ResourceState] = []
        for state in self._olds[self._olds.index(root) + 1 :]:
            if state.delete or state in self._gone or state.urn in self.registered or state.urn in self.aliased:
                continue
            keys = self._must_go(state, replaced_urns)
            if keys is not None:
                replaced_urns.add(state.urn)
                doomed.append(state)
                self._dependent_keys[state.urn] = keys
        for state in doomed:
            if state.protect:
                raise _protected(state.urn, f"replace {root.urn} and with it")
        steps: list[Step] = []
        for state in reversed(doomed):
            self._gone.add(state)
            self.deleted.add(state.urn)
            if not state.pending_replacement:
                steps.append(Step(Op.DELETE_REPLACED, state))
        return steps

    def _must_go(self, state: ResourceState, replaced: set[str]) -> tuple[str, ...] | None:
        """The properties that force this dependent's replacement; None when it can stay."""
        if not state.custom or state.external:
            return None
        if state.provider and urns.parse_reference(state.provider)[0] in replaced:
            return ("provider",)
        if state.deleted_with and state.deleted_with in replaced:
            return ("deletedWith",)
        dependencies = state.property_dependencies
        unknown = [key for key in state.inputs if replaced.intersection(dependencies.get(key, ()))]
        if not unknown:
            return None
        news = {**state.inputs, **dict.fromkeys(unknown, UNKNOWN)}
        diff = self._ask_diff(state, news, state)
        return _forced(diff, state.replace_on_changes, False) or None

    # -- what the program no longer names --------------------------------------------------------------------------

    def plan_deletes(self) -> list[Step]:
        """Deletes for all that is left over once the program has ended; the order is the executor's business.

        Raises:
            ResourceError: a protected resource would have to go.
        """
        steps = []
        for state in self._olds:
            if state in self._gone and not state.delete:
                if state.urn in self.deleted:
                    # Deleted as a dependent, and the program did not name it again.
                    steps.append(Step(Op.DISCARD, state))
                continue
            if not state.delete and (state.urn in self.registered or state.urn in self.aliased):
                continue
            if state.protect and not state.delete:
                raise _protected(state.urn, "delete")
            steps.append(Step(Op.DISCARD if state.pending_replacement else Op.DELETE, state))
        return steps


def _forced(diff: Diff, replace_on_changes: list[str], has_init_errors: bool) -> tuple[str, ...]:
    """Properties that force a replacement: the provider's, and changed ones that the program lists."""
    keys = list(diff.replaces)
    if not diff.changes and not has_init_errors:
        return ()
    for pattern in map(paths.parse, replace_on_changes):
        keys += [key for key in diff.changed if paths.contains(pattern, paths.parse(key))]
        if has_init_errors and paths.contains(pattern, ("#initerror",)):
            keys.append("#initerror")
    return tuple(dict.fromkeys(keys))


def _protected(urn: str, verb: str) -> ResourceError:
    return ResourceError(
        f"cannot {verb} {urn}: it is protected",
        "Remove `protect` from it in the program and run up first.",
    )


def require_registered(registered: dict[str, ResourceState], urn: str, what: str) -> ResourceState:
    """The resource registered in this run under a URN.

    Raises:
        UnsupportedError: there is none; `what` names the call that asks.
    """
    state = registered.get(urn)
    if state is None:
        raise UnsupportedError(f"{what} names a resource that this program has not registered: {urn}")
    return state
