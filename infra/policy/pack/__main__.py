"""Entry point of the policy pack: `pulumi preview --policy-pack infra/policy/pack`."""

from pulumi_policy import EnforcementLevel, PolicyPack

from infra.policy.crossguard import policies

PolicyPack(name="ztna", enforcement_level=EnforcementLevel.MANDATORY, policies=policies())
