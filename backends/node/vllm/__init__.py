"""vLLM as an engine of the node, in an environment of its own.

`engine` runs in the node: it starts the Python of vLLM's environment, by `EngineProcess`. `run` and all that it imports
run there, with the standard library, vLLM, and the modules of this package that need no other.
"""
