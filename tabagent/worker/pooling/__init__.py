"""What all engines share that read whole texts: vectors, ranks, labels and marked spans."""
