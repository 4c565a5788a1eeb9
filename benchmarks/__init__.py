"""What stigmerd costs, measured beside the least that a supervisor can do. ``python -m benchmarks``."""
