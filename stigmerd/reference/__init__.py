"""The built-in stack: three small, real programs that stigmerd runs where nothing is configured.

They are the demo, the subjects of our own tests, and a template for programs that want to be
supervised: a timestamp on every line, health that says what is true, a prompt end on SIGTERM,
and a non-zero exit code when the work cannot be done. They know nothing of the supervisor.
"""
