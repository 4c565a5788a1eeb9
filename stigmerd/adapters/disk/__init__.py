"""The files of the home: state, history, logs, and how they are opened safely."""
