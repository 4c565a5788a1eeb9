"""The configuration, from TOML to specs."""
