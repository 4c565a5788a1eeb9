"""The composition root: one process that puts the parts together, for one home."""
