"""What ./scripts/preflight looks at: one module for each party that may say no."""
