"""Remanent: decide what a neural network keeps, make it forget the rest, and prove it."""

__version__ = "0.1.0"
