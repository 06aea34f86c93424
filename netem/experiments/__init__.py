"""Experiments in virtual time; each module is one command of `python -m netem`."""
