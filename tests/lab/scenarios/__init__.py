"""Networks made to order, one for each verdict of `ztna prove` and each reason of `ztna why`."""
