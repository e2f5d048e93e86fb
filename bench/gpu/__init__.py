"""How much of a GPU the method uses, in one command: `PYTHONPATH=core python -m bench.gpu`.

Needs PyTorch, timm and NumPy, no installation and no network; what a part needs besides, it says
when it is skipped.
"""
