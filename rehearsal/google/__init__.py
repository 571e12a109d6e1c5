"""What Google does by itself: instance groups, metadata servers, identity, and two of its sites."""
