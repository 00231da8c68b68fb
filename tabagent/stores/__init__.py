"""What is kept: the database, and what is read from it."""
