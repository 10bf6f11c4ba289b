"""How flat a loss is around a model: one measure per file, each of a `LossSurface`."""

from remanent.sharpness.surface import LossSurface

__all__ = ["LossSurface"]
