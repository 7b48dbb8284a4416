"""`hybrid-llm policy`: the integrator's commands, one module each."""
