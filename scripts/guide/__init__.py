"""How the built-in guide model is made: corpus, training, export and evaluation."""
