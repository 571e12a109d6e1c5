"""What a container image starts, by the last part of its name."""
