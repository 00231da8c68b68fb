"""What runs programs in the background: one file for each system, and what they have in common."""
