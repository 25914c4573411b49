"""Forwarding of opaque packets between proven endpoints: in the kernel by nftables, or in user space."""
