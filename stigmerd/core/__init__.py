"""The pure core: what to do, decided from values alone. No clock, no system, no Trio."""
