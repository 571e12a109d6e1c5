"""The two clouds, on this machine. Used by scripts/rehearse and by the tests, by nothing else."""
