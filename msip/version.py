"""The version of the distribution, imported by whatever records it."""

__version__ = "0.1.0"
