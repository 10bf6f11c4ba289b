"""Tables, plots and the HTML page: reads results as plain data, and never imports a model."""
