"""How a family of models speaks: tools, calls and reasoning, in its prompt and in its answer."""
