"""The embedded engine: runs a Pulumi program in Python without the Pulumi CLI.

It speaks the SDK's own gRPC protocol and keeps state in Pulumi's deployment v3 format; it is not Pulumi's engine,
and whatever it does not model is an error that names it. `infra.engine.workspace.Workspace` is the way in.
"""
