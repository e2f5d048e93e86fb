"""CMAE-V: contrastive masked autoencoders for video. Importing this package loads no torch."""

from cmaev_spec import __version__

__all__ = ["__version__"]
