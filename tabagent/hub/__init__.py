"""Getting models from a Hugging Face-compatible hub: list, choose, download, check."""
