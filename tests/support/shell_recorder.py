"""Run the commands of a Markdown page in a real shell, with recorders in place of the programs."""

import os
import re
import subprocess
from pathlib import Path

PROGRAMS = ("kubectl", "az", "helm", "tools/doctor")
_RECORDER = (
    '#!/bin/sh\nprintf "%s" "${0##*/}" >> "$RECORD"\nprintf "\\t%s" "$@" >> "$RECORD"\necho >> "$RECORD"\necho x\n'
)


def list_commands(page: str) -> list[str]:
    """Return the lines of the console blocks, as a Markdown reader finds them."""
    inside = False
    found = []
    for line in page.splitlines():
        if re.match(r"\s{0,3}```", line):
            assert line in ("```console", "```"), line
            inside = not inside
        elif inside:
            found.append(line)
    assert not inside
    return found


def run_recorded(script: str, folder: Path) -> list[list[str]]:
    """Run a script in bash. Return the words of each program that it ran. A recorder prints `x`.

    The variable ISSUER is set for the script. Afterwards the folder has `bin`, `tools` and `record`, and the files that
    the script wrote.
    """
    for name in PROGRAMS:
        path = folder / "bin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_RECORDER)
        path.chmod(0o755)
    (folder / "tools").symlink_to(folder / "bin" / "tools")
    env = {"PATH": f"{folder / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin", "RECORD": str(folder / "record")}
    subprocess.run(
        ["bash", "-eu", "-c", script],
        cwd=folder,
        env=env | {"ISSUER": "given"},
        check=True,
        capture_output=True,
        timeout=60,
    )
    return [line.split("\t") for line in (folder / "record").read_text().splitlines()]
