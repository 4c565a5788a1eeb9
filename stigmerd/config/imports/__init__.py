"""Reads what other tools run, and makes components of it: a Procfile, a supervisord.conf, a compose file.

Nothing is lost in silence: what has no place in the configuration is told, with what to do instead.
"""
