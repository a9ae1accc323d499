"""The sample product of Saltern: a bucket list that every instance shares through Redis."""

__version__ = "0.1.0"
