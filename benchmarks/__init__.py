"""What is fast, against whom, measured in one run."""
