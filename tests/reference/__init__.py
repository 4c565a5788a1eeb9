"""The built-in stack, in process and as the programs that users run."""
