"""The child's side: one process per loaded model."""
