"""How good a model, a backend or a whole configuration is, on suites of tasks with known answers."""
