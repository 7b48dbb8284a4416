"""Speed and quality, each beside a peer or a floor in the same run: `python -m benchmarks NAME`.

This file makes it a package of its own: an installed one of the same name, such as opacus brings, would take its place.
"""
