"""The `kernel` backend: links made of tc-netem, plug and TBF on veth pairs."""
