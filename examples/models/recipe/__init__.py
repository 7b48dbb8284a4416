"""Generates the conversations of the demonstration models; `demonstration.yaml` makes the models of them.

It is not part of the library: nothing in ``hybrid_llm`` imports it.
"""
