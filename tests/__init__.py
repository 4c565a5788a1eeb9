"""The tests, in four rings: core, engine, adapters, system. See docs/testing.md."""
