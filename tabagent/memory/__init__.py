"""What is made of messages and documents behind, when nobody waits: vectors, titles, names, links."""
