"""Methods that make a model forget: one file each."""
