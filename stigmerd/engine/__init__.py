"""The engine: runs the core's decisions as Trio tasks, over ports that adapters implement."""
