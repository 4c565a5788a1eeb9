"""Lives that are processes: made, held, found, ended and proven dead."""
