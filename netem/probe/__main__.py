"""A probe's process: takes orders from standard input, a JSON document per line.

Each answer on standard output is the length of a JSON document, a line feed, and the document.
While an exchange lasts, the next line ends it.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from netem.probe.bulk import open_listener, receive_bulk, send_bulk
from netem.probe.datagrams import Exchange, Flow, open_socket


def answer(document: object) -> None:
    """Write an answer to the parent."""
    encoded = json.dumps(document).encode()
    sys.stdout.buffer.write(b"%d\n%b" % (len(encoded), encoded))
    sys.stdout.buffer.flush()


def main() -> None:
    """Do as told until standard input ends."""
    # Unbuffered: select() must see every line that was not taken.
    with open(0, "rb", buffering=0) as orders, open_socket() as udp, open_listener() as listener:
        answer("ready")
        while line := orders.readline():
            order = json.loads(line)
            match order["do"]:
                case "exchange":
                    flow = Flow(**order["flow"]) if order["flow"] else None
                    exchange = Exchange(udp, order["run"], order["peer"], flow, echoes=order["echoes"])
                    record = exchange.go(orders.fileno(), on_sent=lambda: answer("sent"))
                    answer(asdict(record))
                case "stop":
                    pass
                case "send_bulk":
                    answer(send_bulk(order["peer"], order["seconds"]))
                case "receive_bulk":
                    answer(receive_bulk(listener, order["warm_up_s"], order["seconds"]))


if __name__ == "__main__":
    main()
