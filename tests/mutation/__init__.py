"""Every single-cell mutation of the lifecycle table must be caught."""
