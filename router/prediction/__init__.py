"""How long a backend will take: learnt from how long it took, measured at a start, kept for the next one."""
