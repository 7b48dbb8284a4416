"""Tool calls and reasoning in the text that a model reads and writes, the same for the device and for nodes."""
