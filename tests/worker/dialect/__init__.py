"""How families of models speak."""
