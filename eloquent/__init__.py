"""The transport: a token stream over UDP in which every datagram can be rendered by itself."""
