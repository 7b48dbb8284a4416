"""What the linter reports: rules that cannot matter, and reads of absent signals."""
