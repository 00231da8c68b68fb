"""What an answer must look like, and the tokens that keep it so; shared by all engines."""
