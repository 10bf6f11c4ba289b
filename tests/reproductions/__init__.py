"""Each paper's headline effect, small, on tiny models that are really trained."""
