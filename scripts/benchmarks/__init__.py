"""What measures speed, and how far tracing and pruning reach."""
