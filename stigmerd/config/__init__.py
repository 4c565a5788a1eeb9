"""From TOML to specs: the shape of the file, presets, and every error at once."""
