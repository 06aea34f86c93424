"""A link between two TUN devices, for kernels without sch_netem; and one that can be recorded."""
