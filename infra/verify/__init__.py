"""Proof that a stack works, driven by its outputs alone: probes, checks, measurements, reports."""
