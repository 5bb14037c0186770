"""Take away replicas, balancers, hosts and the network while requests come in, and count those that fail.

    python -m tests.e2e.chaos [--short] [--model MODEL] [--rate N] [CASE…]        # --list names them

Needs a swarm of lab hosts that is well: three managers, a worker that serves without a gateway, two gateways, and
    TF2X_INVENTORY        its inventory
    TF2X_CHECKOUT         the repository (default: the one of this file)

Writes chaos.json, chaos.txt and, for each case with playbooks that is not well, chaos-<case>.log. Ends with 1 unless
all is well, and with 2 when it cannot begin.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop
from cluster import Cluster, cluster_of
from faults import CASES
from hosts import LabError
from rows import HEAD, Row, line, write_report
from trial import load_of, run_case

ROOT = Path(__file__).resolve().parents[3]


async def run_cases(names: Sequence[str], cluster: Cluster, model: str, rate: float, output: Path) -> list[Row]:
    """Run the cases one after the other; the report is written after each."""
    # What was taken away is given back also when this is told to end.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)
    load = await load_of(cluster, model, rate)
    rows = []
    for name in names:
        rows.append(await run_case(name, CASES[name], cluster=cluster, load=load, log=output / f"chaos-{name}.log"))
        print(line(rows[-1]), flush=True)
        write_report(rows, output / "chaos")
    return rows


async def _run(names: Sequence[str], options: argparse.Namespace) -> list[Row]:
    if "TF2X_INVENTORY" not in os.environ:
        raise LabError("the environment lacks TF2X_INVENTORY; see --help")
    inventory = Path(os.environ["TF2X_INVENTORY"]).resolve()
    checkout = Path(os.environ.get("TF2X_CHECKOUT", ROOT)).resolve()
    cluster = await cluster_of(inventory, checkout, Path(sys.executable).parent)
    print(HEAD)
    return await run_cases(names, cluster, options.model, options.rate, options.output)


def main() -> int:
    """Run the cases that the command line names. Returns 0 if all of them are ok."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="default: all, in order")
    parser.add_argument("--short", action="store_true", help="the cases of the short form by default")
    parser.add_argument("--list", action="store_true", help="name the cases")
    parser.add_argument("--model", default="colours", help="what the gateways are asked for (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=50.0, help="requests a second and gateway (default: %(default)g)")
    parser.add_argument("--output", type=Path, default=ROOT / "build", help="directory (default: %(default)s)")
    options = parser.parse_args()
    all_names = [name for name, case in CASES.items() if case.short or not options.short]
    if options.list:
        print("\n".join(all_names))
        return 0
    unknown = sorted(set(options.cases) - CASES.keys())
    if unknown:
        parser.error(f"no such case: {', '.join(unknown)}; there are {', '.join(CASES)}")
    # Playbooks compete for the CPU with the clock of the requests; they run with the usual priority.
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -10)
    try:
        options.output.mkdir(parents=True, exist_ok=True)
        rows = uvloop.run(_run(options.cases or all_names, options))
    except LabError as error:
        print(f"chaos: {error}", file=sys.stderr)
        return 2
    return int(not all(row.ok for row in rows))


if __name__ == "__main__":
    sys.exit(main())
