"""Remanent: decide what a neural network keeps, make it forget the rest, and prove it."""

from remanent.api import audit, certify, unlearn, verify

__version__ = "0.1.0"
__all__ = ["__version__", "audit", "certify", "unlearn", "verify"]
