"""The command line `hybrid-llm`."""
