"""Remanent: decide what a neural network keeps, make it forget the rest, and prove it."""

import os

from remanent.api import audit, certify, unlearn, verify

# oneDNN and PyTorch keep what they made for each shape of a batch, up to 1024 of them for each operation: gigabytes in
# bfloat16 on a CPU, since records differ in length. Both read these when the first operation runs; at 64 nothing takes
# longer.
for _capacity in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(_capacity, "64")

__version__ = "0.1.0"
__all__ = ["__version__", "audit", "certify", "unlearn", "verify"]
