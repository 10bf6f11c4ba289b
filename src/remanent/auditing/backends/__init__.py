"""Real quantizers: each writes or loads the saved model as its users do, and gives a model to measure."""
