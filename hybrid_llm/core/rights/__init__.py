"""Who may do what on a node or a gateway, and how much of it: rights, quotas and tokens."""
