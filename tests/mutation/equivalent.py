"""Read the list of equivalent mutants: changes without an effect that a caller can observe, with the reasons."""

import re
import tomllib
from pathlib import Path

LIST = Path(__file__).parent / "equivalent.toml"
Key = tuple[str, str, str, int]


def load_equivalent(path: Path = LIST) -> dict[Key, str]:
    """Return the reason of each equivalent mutant. Raise `ValueError` for an incomplete entry."""
    found: dict[Key, str] = {}
    for entry in tomllib.loads(path.read_text()).get("equivalent", []):
        if set(entry) != {"module", "function", "mutations", "reason"} or not entry["reason"].strip():
            raise ValueError(f"{path}: an entry has module, function, mutations and reason: {entry}")
        for text in entry["mutations"]:
            # If two mutants in one function have the same text, the second one is marked "(2)".
            marked = re.fullmatch(r"(.*) \((\d+)\)", text, re.DOTALL)
            mutation, nth = (marked[1], int(marked[2])) if marked else (text, 1)
            found[entry["module"], entry["function"], mutation, nth] = entry["reason"]
    return found
