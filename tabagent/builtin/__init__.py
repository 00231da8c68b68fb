"""The model that ships with TabAgent: guide.gguf, described in README.md beside it."""
