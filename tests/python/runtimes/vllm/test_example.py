"""The example for vLLM runs, and says what it is there to say."""

import subprocess
import sys
from pathlib import Path

import pytest
from vllm_process import LIMIT_S

EXAMPLE = Path(__file__).resolve().parents[4] / "host" / "python" / "examples" / "vllm_offload.py"


@pytest.mark.long
def test_the_second_run_starts_from_what_the_first_one_stored(model, tmp_path):
    command = [sys.executable, str(EXAMPLE), "--folder", str(tmp_path / "kv"), "--model", str(model)]
    first, second = (
        subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=True).stdout for _ in range(2)
    )
    assert "of 600 tokens of the prompt 0 came from storage" in first
    assert "of 600 tokens of the prompt 576 came from storage" in second
    tokens = [line for line in (first + second).splitlines() if line.startswith("tokens: ")]
    assert len(tokens) == 2
    assert tokens[0] == tokens[1]
