"""How things in this repository are made."""
