"""Add up what `make test` ran: pytest's reports and molecule's scenarios. Ends on the line `N passed, N failed`."""

import sys
import xml.etree.ElementTree as ET
from pathlib import Path

BUILD = Path(__file__).resolve().parents[1] / "build"


def main() -> int:
    passed = failed = skipped = 0
    for report in sorted((BUILD / "reports").glob("*.xml")):
        for suite in ET.parse(report).getroot().iter("testsuite"):
            total, bad, left_out = (
                int(suite.get("tests")),
                int(suite.get("failures")) + int(suite.get("errors")),
                int(suite.get("skipped")),
            )
            print(f"{report.stem}: {total - bad - left_out} passed, {bad} failed, {left_out} skipped")
            passed, failed, skipped = passed + total - bad - left_out, failed + bad, skipped + left_out
    for result in sorted((BUILD / "molecule").glob("*.result")):
        scenario, outcome, seconds = result.read_text().split()
        print(f"molecule {scenario}: {outcome} in {seconds} s")
        passed, failed = passed + (outcome == "passed"), failed + (outcome != "passed")
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    # Nothing that passed is nothing that ran.
    return int(failed > 0 or passed == 0)


if __name__ == "__main__":
    sys.exit(main())
