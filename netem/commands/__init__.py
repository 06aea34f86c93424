"""Commands of `python -m netem` about the laboratory and its scenarios."""
