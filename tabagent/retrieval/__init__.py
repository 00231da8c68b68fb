"""Documents: read, cut into chunks, indexed, and found again."""
