"""The laboratory: hosts as network namespaces of this machine, joined by links that misbehave."""
