"""What the server counts, logs and traces of itself while it serves."""
