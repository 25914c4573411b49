"""The CrossGuard policy pack: the same rules, run by the official CLI."""
