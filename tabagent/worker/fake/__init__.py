"""A backend without weights: the real process and pipe, with an engine that acts on demand."""
