"""Network labs on this machine: hosts, LANs, NATs and bad links, as frozen data and as the real thing.

    topology, nat    what is wanted          frozen, JSON-able, checked on construction
    plan, nft        what that becomes       pure: namespaces, interfaces, rules as text
    build, shaping   making it so            `ip`, `nft`, `tc`; idempotent, changes in place
    shaper, link     impaired links          one process per run, where the kernel has no netem
    runtime          the way in              `Lab`: ensure_*, remove_*, realise, spawn, exec_prefix, destroy
    state, reap      what outlives a process records, locks, clean-up after any accident
    rungs            root, rootless, loopback

Source of the words: RFC 4787 (NAT behaviour), tc-netem(8) (impairments).
"""
