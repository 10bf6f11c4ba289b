"""Methods that keep a model from forgetting, one file each."""
