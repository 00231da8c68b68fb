"""What several services answer with, and how a generation becomes events and replies."""
