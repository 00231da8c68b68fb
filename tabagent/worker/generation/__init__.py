"""What all engines share that generate: prompts, sampling, and how an answer leaves."""
