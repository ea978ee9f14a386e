"""Names of files: the key, and a number that no other file of the directory has. A file that is being removed is
therefore never the one that a later put of the same key writes."""

import re
from dataclasses import dataclass

NAME = re.compile(r"([0-9a-f]{16})([0-9a-f]{16})-([0-9]{1,18})(\.tmp)?")


@dataclass(frozen=True)
class File:
    """A file in the directory: a whole chunk, or what a put has left that did not end."""

    key: tuple
    number: int
    is_temporary: bool = False

    @property
    def name(self):
        hi, lo = self.key
        return f"{hi:016x}{lo:016x}-{self.number}{'.tmp' if self.is_temporary else ''}"


def parse(name):
    """Returns what a name stands for, or None for the file of someone else."""
    match = NAME.fullmatch(name)
    if match is None:
        return None
    hi, lo, number, temporary = match.groups()
    return File((int(hi, 16), int(lo, 16)), int(number), temporary is not None)
