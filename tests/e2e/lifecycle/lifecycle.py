"""Change what is served, well and badly, while 50 requests a second come in: not one may fail.

    python -m tests.e2e.lifecycle [--short] [CASE…]        # --list names them

Needs a running stack that serves version 1 of `colours`, and in the environment
    TF2X_GATEWAY_URLS     the gateways, e.g. http://172.17.0.2:9000,http://172.17.0.3:9000
    TF2X_INVENTORY        the inventory of the playbooks
    TF2X_SERVING_HOSTS    the serving hosts' containers; the first one is also a manager and has a gateway, or
    TF2X_MANAGER_HOST, TF2X_GATEWAY_HOST    name others
    TF2X_CHECKOUT         the repository (default: the one of this file)
    TF2X_TF_PYTHON        a Python with TensorFlow (default: .venv-tf/bin/python of the repository)
    TF2X_PUBLISH_LIMIT_SECONDS    how long the publish of a small model may take (default: any time)

Writes lifecycle.json, lifecycle.txt and, for each command that fails, lifecycle-<case>.log. Ends with 1 unless all is
well.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import uvloop
from answers import golden_scores
from cases import CASES, LONG_CASES, VARIANTS
from hosts import LabError
from rows import HEAD, Row, line, write_report
from run import run_case
from stack import Stack

ROOT = Path(__file__).resolve().parents[3]
_MODELS = Path("tests/models/colours")


def stack_from_environment() -> Stack:
    """Return the stack that the environment names. Raises LabError when it does not."""
    missing = [name for name in ("TF2X_GATEWAY_URLS", "TF2X_INVENTORY", "TF2X_SERVING_HOSTS") if name not in os.environ]
    if missing:
        raise LabError(f"the environment lacks {', '.join(missing)}; see --help")
    hosts = tuple(filter(None, os.environ["TF2X_SERVING_HOSTS"].split(",")))
    return Stack(
        gateways=tuple(url.rstrip("/") for url in os.environ["TF2X_GATEWAY_URLS"].split(",") if url),
        inventory=Path(os.environ["TF2X_INVENTORY"]).resolve(),
        checkout=Path(os.environ.get("TF2X_CHECKOUT", ROOT)).resolve(),
        hosts=hosts,
        manager=os.environ.get("TF2X_MANAGER_HOST", hosts[0]),
        gateway_host=os.environ.get("TF2X_GATEWAY_HOST", hosts[0]),
        ansible_playbook=str(Path(sys.executable).with_name("ansible-playbook")),
    )


def make_variants(folder: Path, python: Path) -> Path:
    """Make the models once, with a Python that has TensorFlow, and return the folder that has one for each name."""
    scripts = [ROOT / _MODELS / name for name in ("make.py", "variants.py")]
    content = b"".join([*(script.read_bytes() for script in scripts), *map(str.encode, VARIANTS)])
    digest = hashlib.sha256(content).hexdigest()[:12]
    made = folder / digest
    if not made.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            subprocess.run([python, scripts[1], scratch, *VARIANTS], check=True)
            shutil.copytree(scratch, made.with_suffix(".part"), dirs_exist_ok=True)
        made.with_suffix(".part").rename(made)
    return made


async def run_cases(names: Sequence[str], stack: Stack, variants: Path, output: Path) -> list[Row]:
    """Run the cases one after the other; the report is written after each."""
    # Nothing that follows would mean anything without the gateways.
    await stack.metric("tf2x_gateway_build_info")
    model = await stack.model()
    right = {int(version): golden_scores(await stack.stored_golden(int(version))) for version in model["versions"]}
    picture = (ROOT / _MODELS / "1/assets.extra/golden-stripes.png").read_bytes()
    rows = []
    for name in names:
        log = output / f"lifecycle-{name}.log"
        rows.append(
            await run_case(name, CASES[name], stack=stack, right=right, variants=variants, picture=picture, log=log)
        )
        print(line(rows[-1]), flush=True)
        write_report(rows, output / "lifecycle")
    return rows


def main() -> int:
    """Run the cases that the command line names. Returns 0 if all of them are ok."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="default: all, in order")
    parser.add_argument("--short", action="store_true", help="leave the longest cases out by default")
    parser.add_argument("--list", action="store_true", help="name the cases")
    parser.add_argument("--output", type=Path, default=ROOT / "build", help="directory (default: %(default)s)")
    options = parser.parse_args()
    all_names = [name for name in CASES if not (options.short and name in LONG_CASES)]
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
        stack = stack_from_environment()
        options.output.mkdir(parents=True, exist_ok=True)
        python = Path(os.environ.get("TF2X_TF_PYTHON", ROOT / ".venv-tf/bin/python"))
        variants = make_variants(options.output.resolve() / "lifecycle-models", python)
        print(HEAD)
        rows = uvloop.run(run_cases(options.cases or all_names, stack, variants, options.output))
    except LabError as error:
        print(f"lifecycle: {error}", file=sys.stderr)
        return 2
    return int(not all(row.ok for row in rows))


if __name__ == "__main__":
    sys.exit(main())
