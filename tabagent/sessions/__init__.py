"""Conversations that are kept: loaded as far as they fit, saved as they grow."""
