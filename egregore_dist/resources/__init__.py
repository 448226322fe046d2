"""What machines have, and what to make of it."""
