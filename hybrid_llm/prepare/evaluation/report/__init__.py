"""An evaluation as tables for terminals and as a page."""
