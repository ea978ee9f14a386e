"""The first example, and the first code of the documents, run as they are."""

import re

import chains
import pytest
from conftest import run_python

EXAMPLE = chains.ROOT / "host" / "python" / "examples" / "quickstart.py"


def test_the_quickstart_finds_in_the_second_run_what_the_first_one_stored(tmp_path):
    first = run_python(EXAMPLE, tmp_path).ended_well()
    assert first[0] == "before: 0 of 64 tokens are stored, in no tier"
    assert first[1].startswith("stored: 4 chunks of 2048 bytes") and "n_queued=4" in first[1]
    second = run_python(EXAMPLE, tmp_path).ended_well()
    assert second[0] == "before: 64 of 64 tokens are stored, in ['disk']"
    assert first[2] == second[2] == f"after: {[f'2048 bytes, first {i}' for i in range(4)]}"


def test_the_quickstart_needs_no_argument():
    assert run_python(EXAMPLE).ended_well()[0].startswith("before: 0 of 64")


@pytest.mark.parametrize("document", ["docs/python.md", "host/python/README.md"])
def test_the_code_of_a_document(document, tmp_path):
    """All blocks are one program, which prints what its comments say."""
    blocks = re.findall(r"```python\n(.*?)```", (chains.ROOT / document).read_text(), re.DOTALL)
    code = "\n".join(blocks).replace("tempfile.mkdtemp()", repr(str(tmp_path)))
    lines = run_python("-c", code).ended_well()
    said = [line.partition("# ")[2] for line in code.splitlines() if "print(" in line]
    assert len(lines) == len(said) > 0
    for line, comment in zip(lines, said, strict=True):
        expected = comment.partition(": bytes of")[0].replace("/tmp/…", str(tmp_path))
        assert line == expected
