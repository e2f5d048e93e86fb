"""Does pretraining help? CMAE-V on real videos: every arm at the same budget, over four folds.

Run `python -m bench.ceiling --help`; docs/benchmarks/ceiling.md has the protocol and the figures.
"""
