"""The bridge into transformers.Trainer."""
