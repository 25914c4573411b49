"""What no stack may declare: rules over the resource graph, run by `ztna lint` and as a CrossGuard policy pack."""
