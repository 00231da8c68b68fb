"""Models in sentence-transformers' own format, in torch."""
