"""The package is typed: mypy is content with it, with a program that uses it right, and finds what is wrong."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import kvtier
import pytest
from kvtier._views import Futures

pytest.importorskip("mypy", reason="mypy is not installed")

PACKAGE = Path(kvtier.__file__).absolute().parent

RIGHT = """
import asyncio
from concurrent.futures import Future

import kvtier
from kvtier import components

config = {"chunk_size": 16, "external_backends": ["disk"], "extra_config": {"kvtier.on_full": "wait"}}
metadata = kvtier.EngineMetadata("model", (2, 2, 16, 2, 8))
with kvtier.Engine.from_dict(config, metadata, env={}) as engine:
    prompt = engine.prompt([1, 2, 3], tags={"tenant": "a"})
    found: kvtier.Prefix = engine.lookup(prompt, tiers="cpu", pin="id")
    tier, first, end = found.served[0]
    with engine.allocate(prompt) as allocation:
        for missing in allocation.missing:
            memoryview(missing)[:] = bytes(len(missing))
        n_new: int = engine.store(allocation, tiers=["cpu"]).n_new
    first_chunk: kvtier.Chunk = engine.retrieve(range(3), plan=found).chunks[0]
    view: memoryview = memoryview(first_chunk)
    seconds: float = engine.status().backends[0].reading.since_s
    reasons = [reason for tier_counts in engine.counts() for reason in tier_counts.misses]
    text: str = engine.metrics() + reasons[0] + str(components.path("fs"))

storage = kvtier.Storage.from_dict(config, kvtier.StorageMetadata("model", "v1", 1 << 20), cpu_tier=False)
keys: bytes = storage.keys(["a", b"b"])
memory = kvtier.Memory.batch([4096], 10, owner=object(), on_release=lambda owner: None)
receipt: kvtier.Receipt = storage.put_lent(keys, [*memory, bytearray(3)])
stored: list[bool] = receipt.stored(timeout=5)
for entry in receipt.outcomes():
    name: str = entry.backend
results: list[int | kvtier.Miss] = storage.fetch_into(keys, [bytearray(3)])
for result in results:
    if isinstance(result, kvtier.Miss):
        reason: str = result.reason
present: list[bool] = storage.contains_each(keys)


async def main() -> int:
    async with storage.aio as aio:
        n: int = await aio.contains(keys, tiers="cpu")
        return n


future: Future[int] = storage.futures.contains(keys)
print(asyncio.run(main()), future.result(5), view, seconds, text, stored, n_new, present, end, first, tier)
"""

# Each line has an error.
WRONG = """
import kvtier

kvtier.Engine.from_dict({}, kvtier.StorageMetadata("m", "l", 10))
kvtier.EngineMetadata("model")
storage = kvtier.Storage.from_dict({}, kvtier.StorageMetadata("m", "l", 10))
storage.contains("key")
storage.contains(b"", None)
storage.put_lent(b"", [5])
storage.keys("name").upper(1)
number: int = storage.metrics()
storage.nothing()
kvtier.Memory("address", 10)
storage.fetch_into(b"", [bytearray(1)])[0] + 1
storage.status().backends[0].nothing
storage.futures.contains("key")
storage.futures.keys(["name"])
number = storage.futures.contains(b"")
storage.aio.get(b"")
class Sub(kvtier.Engine): ...
"""


def mypy(*arguments, cwd):
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--no-incremental",
        "--cache-dir",
        str(cwd / "cache"),
        *arguments,
    ]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env={"PATH": "", "MYPYPATH": str(PACKAGE.parent)}
    )


def test_the_package(tmp_path):
    # Without the serving engines, whose types are then unknown.
    unknown = [f"--disable-error-code={code}" for code in ("import-not-found", "import-untyped")]
    sources = [str(path) for path in PACKAGE.rglob("*.py*") if path.suffix in (".py", ".pyi")]
    assert (PACKAGE / "py.typed").exists() and len(sources) > 10
    done = mypy(*unknown, *sources, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_program_that_is_right(tmp_path):
    (tmp_path / "right.py").write_text(RIGHT)
    done = mypy("right.py", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_program_that_is_wrong(tmp_path):
    (tmp_path / "wrong.py").write_text(WRONG)
    done = mypy("wrong.py", cwd=tmp_path)
    found = {int(line) for line in re.findall(r"^wrong\.py:(\d+): error", done.stdout, re.MULTILINE)}
    lines = WRONG.splitlines()
    expected = {
        number for number, line in enumerate(lines, 1) if line and number > 3 and not line.startswith("storage = ")
    }
    assert found == expected, done.stdout


# What only type checkers know, and what the extension has only in later versions of Python.
ONLY_IN_THE_STUB = r"""
kvtier\._kvtier\.(__all__|Buffer|Tiers|Tokens)
kvtier\._kvtier\.(Chunk|Missing)\.__buffer__
"""


def test_the_stub_is_what_the_extension_is(tmp_path):
    (tmp_path / "allowed").write_text(ONLY_IN_THE_STUB)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy.stubtest",
            "kvtier._kvtier",
            "--allowlist",
            "allowed",
            "--ignore-unused-allowlist",
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": "", "MYPYPATH": str(PACKAGE.parent), "PYTHONPATH": str(PACKAGE.parent)},
    )
    assert done.returncode == 0, done.stdout + done.stderr


def methods_of(tree, name):
    [found] = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    return {node.name: node for node in found.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("chain", ["Engine", "Storage"])
def test_the_stub_of_futures_and_coroutines_follows_the_operations(chain):
    tree = ast.parse((PACKAGE / "_kvtier.pyi").read_text())
    methods = methods_of(tree, chain)
    waiting = sorted(set(methods) & Futures._OPERATIONS)
    assert "contains" in waiting or "lookup" in waiting
    for view, wrapped in (("Futures", "Future[{}]"), ("Coroutines", "{}")):
        offered = {name: node for name, node in methods_of(tree, chain + view).items() if not name.startswith("__")}
        assert sorted(offered) == waiting
        for name, node in offered.items():
            assert isinstance(node, ast.AsyncFunctionDef) == (view == "Coroutines"), name
            assert ast.unparse(node.args) == ast.unparse(methods[name].args), name
            assert ast.unparse(node.returns) == wrapped.format(ast.unparse(methods[name].returns)), name
