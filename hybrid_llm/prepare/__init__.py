"""The life of a model: recipes of steps that prepare data, tune, compress, convert, evaluate and explain models.

Nothing of it is imported at run time on a device. Its libraries come with the extra `prepare`; steps import them when
they run.
"""
