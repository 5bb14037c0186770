"""Write the option tables of the roles' READMEs from their argument specs; with --check, say which are out of date."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- begin options -->", "<!-- end options -->"


def rows(options: dict, prefix: str = "") -> list[str]:
    lines = []
    for name, option in options.items():
        kind = option["type"] + (f" of {option['elements']}" if "elements" in option else "")
        default = "required" if option.get("required") else f"`{json.dumps(option.get('default'))}`"
        choices = f" One of {', '.join(f'`{choice}`' for choice in option['choices'])}." if "choices" in option else ""
        words = option["description"]
        text = " ".join(words if isinstance(words, list) else [words]).strip().replace("|", "\\|")
        lines.append(f"| `{prefix}{name}` | {kind} | {default} | {text}{choices} |")
        if "options" in option:
            lines += rows(option["options"], f"{prefix}{name}{'[]' if option['type'] == 'list' else ''}.")
    return lines


def readme_with_table(role: Path) -> str:
    options = yaml.safe_load((role / "meta/argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
    table = "\n".join(["| option | type | default | what it does |", "|---|---|---|---|", *rows(options)])
    readme = (role / "README.md").read_text()
    head, rest = readme.split(BEGIN)
    return f"{head}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = []
    for role in sorted((ROOT / "roles").iterdir()):
        wanted = readme_with_table(role)
        if wanted != (role / "README.md").read_text():
            stale.append(role.name)
            if not check:
                (role / "README.md").write_text(wanted)
    if stale:
        print(f"{'out of date' if check else 'written'}: {', '.join(stale)}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
