"""`python -m kvtier`, and the compiler process of engines, which is this interpreter again."""

import json
import os
import signal
import subprocess
import sys

import chains
import kvtier
import pytest
from conftest import eventually, run_python

FS = chains.GUESTS / "fs.wasm"


def command(*words, env=None, options=()):
    return run_python(*options, "-m", "kvtier", *words, env=env)


def test_help_and_version():
    for words in ([], ["--help"], ["help"], ["--version"]):
        done = command(*words)
        assert (done.code in (0, 2)) and "kvtier" in done.out + done.err
    assert kvtier.__version__ in command("--version").ended_well()[0]


def test_inspect_shows_a_component():
    done = command("inspect", FS)
    assert "FsBackend" in "\n".join(done.ended_well())


def test_inspect_refuses_what_is_not_a_component(tmp_path):
    wrong = tmp_path / "wrong.wasm"
    wrong.write_bytes(b"not a component")
    for path in (wrong, tmp_path / "missing.wasm", tmp_path):
        done = command("inspect", path)
        assert done.code == 1 and path.name in done.err and "Traceback" not in done.err


def test_config_checks_a_file(tmp_path):
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    config = chains.settings({"disk": chains.disk(tmp_path)}, {"chunk_size": 16})
    good.write_text(json.dumps(config))
    config["extra_config"]["external_backend.disk.limits.memory"] = "much"
    bad.write_text(json.dumps(config))
    assert "disk" in "\n".join(command("config", good).ended_well())
    done = command("config", bad)
    assert done.code == 1 and "limits.memory" in done.err and "Traceback" not in done.err


def test_wrong_words_are_code_2():
    for words in (["nonsense"], ["inspect"], ["inspect", "--no-such-flag", FS]):
        done = command(*words)
        assert done.code == 2 and done.err and "Traceback" not in done.err


def test_compile_fills_a_cache_that_engines_use(tmp_path):
    cache = tmp_path / "cache"
    file = tmp_path / "kvtier.yaml"
    config = chains.settings({"log": log()}, {"chunk_size": 16, "max_local_cpu_size": 0.01}, compile_cache=str(cache))
    file.write_text(json.dumps(config))
    command("compile", "--config", file).ended_well()
    compiled = list(cache.iterdir())
    assert [path.suffix for path in compiled] == [".cwasm"]
    config["extra_config"]["kvtier.compile"] = "cached_only"
    with chains_of(config) as chain:
        assert chain.status().backends[0].is_up
    # The control: without the cache it is refused.
    config["extra_config"]["kvtier.compile_cache"] = str(tmp_path / "empty")
    with pytest.raises(kvtier.BuildError, match="log"):
        chains_of(config)


def log():
    return {"module_path": str(chains.GUESTS / "log.wasm"), "class_name": "ExternalLogBackend"}


def chains_of(config):
    return kvtier.Engine.from_dict(config, kvtier.EngineMetadata("model", chains.KV_SHAPE), env={})


COLD = """
if sys.argv[2:] == ["ignored"]:
    import signal
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
if sys.argv[2:] == ["reaped"]:
    def reap():
        while True:
            try:
                os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                time.sleep(0.001)
    threading.Thread(target=reap, daemon=True).start()
log = {"module_path": str(chains.GUESTS / "log.wasm"), "class_name": "ExternalLogBackend"}
s = chains.storage({"log": log}, compile_cache=sys.argv[1])
print(s.status().backends[0].is_up)
"""


@pytest.mark.parametrize("children", ["", "ignored", "reaped"])
def test_a_cold_cache_is_filled_by_a_process_of_this_interpreter(program, tmp_path, children):
    # Also where the program takes no interest in its children, or collects those of others.
    done = program(COLD, tmp_path / "cache", *([children] if children else []))
    assert done.ended_well() == ["True"]
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".cwasm"]


def test_the_compiler_process_needs_nothing_of_the_program(program, tmp_path):
    # Modules that shadow the standard library, and a start-up file: the compiler sees neither.
    trap = tmp_path / "trap"
    trap.mkdir()
    for name in ("dataclasses", "typing", "usercustomize", "sitecustomize"):
        (trap / f"{name}.py").write_text(f"import sys; sys.stderr.write('loaded {name}'); sys.exit(9)")
    lines = program(
        """
trap, cache = sys.argv[1:]
os.environ["PYTHONPATH"] = trap
os.environ["PYTHONSTARTUP"] = trap + "/sitecustomize.py"
os.chdir(trap)
log = {"module_path": str(chains.GUESTS / "log.wasm"), "class_name": "ExternalLogBackend"}
s = chains.storage({"log": log}, compile_cache=cache)
print(s.status().backends[0].is_up, len(os.listdir(cache)))
""",
        trap,
        tmp_path / "cache",
        # The program itself does not look there.
        options=["-P"],
    ).ended_well()
    assert lines == ["True 1"]


def test_the_compiler_is_a_process_and_not_a_thread(program, tmp_path):
    # While it compiles there is a child with this interpreter's program.
    lines = program(
        """
children = set()
stops = False
def watch():
    me = os.getpid()
    while not stops:
        for name in os.listdir("/proc"):
            if name.isdigit():
                try:
                    with open(f"/proc/{name}/stat") as stat, open(f"/proc/{name}/cmdline") as line:
                        parent, words = int(stat.read().rsplit(")", 1)[1].split()[1]), line.read().split("\\0")
                except OSError:
                    continue
                if parent == me and "-I" in words:
                    children.add(" ".join(words[1:3]))
thread = threading.Thread(target=watch)
thread.start()
log = {"module_path": str(chains.GUESTS / "log.wasm"), "class_name": "ExternalLogBackend"}
s = chains.storage({"log": log}, compile_cache=sys.argv[1])
stops = True
thread.join()
print(children)
""",
        tmp_path / "cache",
    ).ended_well()
    assert lines == ["{'-I -S'}"]


def test_ctrl_c_during_compilation(program, tmp_path):
    done = program(
        """
import signal
threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGINT]).start()
try:
    chains.storage({"bad": chains.guest("GoodBackend")}, compile_cache=sys.argv[1])
except KeyboardInterrupt:
    print("interrupted")
""",
        tmp_path / "cache",
    )
    assert done.ended_well() == ["interrupted"]


def test_ctrl_c_ends_the_command(tmp_path):
    cache, file = tmp_path / "cache", tmp_path / "kvtier.yaml"
    file.write_text(json.dumps(chains.settings({"bad": chains.guest("GoodBackend")}, compile_cache=str(cache))))
    process = subprocess.Popen(
        [sys.executable, "-m", "kvtier", "compile", "--config", str(file)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    # The cache is made when compilation begins.
    assert eventually(cache.exists)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    # At once, and not when it had compiled.
    assert list(cache.glob("*.cwasm")) == []


def test_components_of_the_package():
    from kvtier import components

    assert components.names() == ["fs", "log", "memory", "redis", "s3"]
    for name in components.names():
        assert components.path(name).read_bytes()[:4] == b"\0asm"
    for name in ("fs", "memory"):
        assert components.class_name(name) in "\n".join(command("inspect", components.path(name)).ended_well())
    for wrong in ("nothing", "../fs", ""):
        with pytest.raises(LookupError, match="fs"):
            components.path(wrong)
        with pytest.raises(LookupError):
            components.class_name(wrong)
        with pytest.raises(LookupError):
            components.settings(wrong, "disk")
    assert components.settings("memory", "hot") == {
        "external_backend.hot.module_path": str(components.path("memory")),
        "external_backend.hot.class_name": "LruMemoryBackend",
    }
    with pytest.raises(ValueError, match="fs needs a folder"):
        components.settings("fs", "disk")
    with pytest.raises(ValueError, match="memory stores nothing in a folder"):
        components.settings("memory", "hot", "/tmp")
