"""Many streams at once between two processes on this machine, and what they cost in CPU time."""
