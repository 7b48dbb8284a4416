"""The recipe of the two demonstration models: tokenizer, tasks, training, evaluation and export.

It is not part of the library: nothing in ``hybrid_llm`` imports it.
"""
