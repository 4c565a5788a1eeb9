"""The operator's tools: everything under ``stigmer``. Talks to the daemon through its socket only."""
