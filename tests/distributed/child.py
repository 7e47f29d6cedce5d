"""One of several processes: solves cases with rows over all of them and prints them, or meets
faults, one after another.
"""

import json
import sys

from tests.distributed.processes import join

if __name__ == "__main__":
    index, port, count, *names = sys.argv[1:]
    join(index, port, count, heartbeat_timeout_seconds=10)
    from jaxdescent.kernels import memory
    from jaxdescent.machine import Machine
    from tests.distributed import faults
    from tests.distributed.cases import CASES, across_processes, certified, solved

    place = across_processes()
    for name in names or [*CASES, "certificate"]:
        print(f"name {name}", flush=True)
        if name == "certificate":
            print(json.dumps(certified(place)), flush=True)
        elif name in CASES:
            print(json.dumps(solved(name, place)), flush=True)
        else:
            own = memory.available_bytes, Machine.of
            getattr(faults, name)(int(index), place)
            memory.available_bytes, Machine.of = own
