"""The kinds of tasks of a suite."""
