"""``flower-supernode`` that ends when it has given up its link, so that it can be started again.

Flower 1.42's SuperNode takes a TLS handshake that the SuperLink cut short, as one that is ended
does, for a bad certificate: it leaves its loop, and a thread of its own then keeps the process
alive, which asks for nothing any more.

Run as ``python -P -m client.supernode``; the options are those of ``flower-supernode``.
"""

import os
import sys

# Of a SuperNode that left its loop without being told to end; sysexits.h: try again later.
GAVE_UP = 75


def main() -> None:
    """Run the SuperNode."""
    from flwr.supernode.cli import flower_supernode

    flower_supernode()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit, which waits for threads.
    os._exit(GAVE_UP)


if __name__ == "__main__":
    main()
