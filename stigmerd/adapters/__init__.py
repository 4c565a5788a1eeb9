"""The adapters: the only code that touches the world. Each serves one of the engine's ports."""
