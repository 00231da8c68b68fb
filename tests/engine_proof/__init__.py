"""The GGUF engine end to end: HTTP, the real client, real workers, real llama.cpp."""
