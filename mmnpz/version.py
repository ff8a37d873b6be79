"""The version, at the place that mmnpz 1.0 had for it."""

from mmnpz._mmnpz import __version__

__all__ = ["__version__"]
