"""What the documentation says is checked against the code."""
