"""How the built-in embedder is made."""
