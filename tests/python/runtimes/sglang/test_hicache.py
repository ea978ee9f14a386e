"""SGLang's HiCache stores pages with `kvtier.sglang.KvtierHiCache`.

Proves: pages backed up by one controller are found and fetched by another one, byte for byte, in every layout with
contiguous pages and for latent pages (MLA); the host pool is lent and not copied; misbehaving components are misses and
do not stop the controller, which can be detached while a call hangs; pages are not given back while a transfer uses
them; models, ranks and layouts do not see each other's pages; a wrong configuration is refused.

Real: SGLang's `HiCacheController` with its threads, pools, page hashes and backend factory; kvtier's components.
Not driven: SGLang's scheduler and radix tree, whose engine does not run on a CPU.
"""

import threading

import kvtier.sglang
import pytest
import torch
from controller import PAGE_TOKENS, mha_pools, mla_pools
from kvtier._adapter import RuntimeMismatch
from sglang.srt.mem_cache.hicache_storage import HiCacheStorage

N_PAGES = 8
TOKENS = list(range(N_PAGES * PAGE_TOKENS))
POOLS = {
    "page_first": lambda: mha_pools("page_first"),
    "page_first_direct": lambda: mha_pools("page_first_direct"),
    "page_head": lambda: mha_pools("page_head"),
    "mla page_first": lambda: mla_pools("page_first"),
    "mla page_first_direct": lambda: mla_pools("page_first_direct"),
}


def extra(backends, **keys):
    """Returns the extra configuration of a `KvtierHiCache` that waits for its components to be loaded."""
    return {
        "backend_name": "kvtier",
        "module_path": "kvtier.sglang",
        "class_name": "KvtierHiCache",
        "interface_v1": 1,
        "kvtier.on_load_error": "fail",
        "backends": backends,
        **keys,
    }


def disk(guests, folder, **keys):
    folder.mkdir(exist_ok=True)
    return extra(
        "disk",
        **{
            "disk.module_path": str(guests / "fs.wasm"),
            "disk.class_name": "FsBackend",
            "disk.config.root": "/data",
            "disk.allow.fs": [f"{folder}:/data:rw"],
        },
        **keys,
    )


def hostile(guests, class_name, **keys):
    return extra(
        "bad",
        **{
            "bad.module_path": str(guests / "misbehaving.wasm"),
            "bad.class_name": class_name,
            "bad.limits.call_timeout_ms": 300,
            **{f"bad.{key}": value for key, value in keys.items()},
        },
    )


def equal(pages, expected):
    return len(pages) == len(expected) and all(torch.equal(one, other) for one, other in zip(pages, expected))


@pytest.mark.parametrize("pools", POOLS)
def test_pages_of_one_controller_reach_another_one(attach, guests, tmp_path, pools):
    first = attach(disk(guests, tmp_path / "disk"), POOLS[pools]())
    n_stored, pages = first.backup(TOKENS)
    assert n_stored == len(TOKENS)
    second = attach(disk(guests, tmp_path / "disk"), POOLS[pools]())
    n_hit, arrived = second.prefetch(TOKENS + list(range(10_000, 10_000 + 4 * PAGE_TOKENS)))
    assert n_hit == len(TOKENS)
    assert equal(arrived, pages)
    assert second.prefetch(list(range(500, 500 + 4 * PAGE_TOKENS))) == (0, [])


@pytest.mark.parametrize("pools", POOLS)
def test_the_host_pool_is_lent_where_it_is(attach, guests, tmp_path, pools, monkeypatch):
    lent, batch = [], kvtier.sglang.Memory.batch

    class Recording:
        @staticmethod
        def batch(addresses, n_bytes, owner, on_release):
            lent.append((list(addresses), list(n_bytes)))
            return batch(addresses, n_bytes, owner, on_release)

    monkeypatch.setattr(kvtier.sglang, "Memory", Recording)
    one = attach(disk(guests, tmp_path / "disk"), POOLS[pools]())
    _, pages = one.backup(TOKENS)
    _, arrived = one.prefetch(TOKENS)
    assert equal(arrived, pages)
    buffer = one.host.kv_buffer
    first, end = buffer.data_ptr(), buffer.data_ptr() + buffer.nbytes
    n_pieces = 1 if pools.startswith("mla") else 2
    assert [len(addresses) for addresses, _ in lent] == [N_PAGES * n_pieces] * 2
    for addresses, sizes in lent:
        assert sum(sizes) == sum(page.nbytes for page in pages)
        spans = sorted(zip(addresses, sizes))
        assert first <= spans[0][0] and spans[-1][0] + spans[-1][1] <= end
        assert all(at + size <= following for (at, size), (following, _) in zip(spans, spans[1:]))


def test_a_hit_ends_at_the_first_page_that_is_gone(attach, guests, tmp_path):
    one = attach(disk(guests, tmp_path / "disk"))
    _, pages = one.backup(TOKENS)
    storage = one.backend._storage
    hashes = kvtier_names(TOKENS)
    # Only V of the fourth page: a page without one of its pieces is no page.
    storage.remove(storage.keys([f"{hashes[3]}.1"]))
    n_hit, arrived = one.prefetch(TOKENS)
    assert n_hit == 3 * PAGE_TOKENS
    assert equal(arrived, pages[:3])


def kvtier_names(tokens):
    from sglang.srt.mem_cache.utils import get_storage_hash_str

    return get_storage_hash_str(tokens, None, page_size=PAGE_TOKENS)


def test_flipped_bits_on_disk_are_misses_and_can_be_stored_again(attach, guests, tmp_path):
    one = attach(disk(guests, tmp_path / "disk"))
    one.backup(TOKENS)
    files = [path for path in (tmp_path / "disk").rglob("*") if path.is_file() and path.stat().st_size > 16 * 1024]
    assert len(files) == 2 * N_PAGES
    for number, path in enumerate(files):
        data = bytearray(path.read_bytes())
        data[number * 1000] ^= 1
        path.write_bytes(data)
    assert one.prefetch(TOKENS)[1] == []
    _, pages = one.backup(TOKENS)
    assert equal(one.prefetch(TOKENS)[1], pages)


@pytest.mark.parametrize("class_name", ["WrongBytesBackend", "GarbageBackend", "HalfBackend", "ForgeBackend",
                                        "SwappedBackend", "ShortBackend", "PhantomBackend"])  # fmt: skip
def test_wrong_bytes_never_arrive(attach, guests, tmp_path, class_name):
    (tmp_path / "key").write_text("a key that backends do not know")
    bad = hostile(guests, class_name) | {"kvtier.integrity_key": f"file:{tmp_path / 'key'}"}
    one = attach(bad)
    one.backup(TOKENS)
    assert one.prefetch(TOKENS)[1] == []


@pytest.mark.parametrize("method", ["contains", "put", "get"])
@pytest.mark.parametrize(
    "class_name", ["HangBackend", "BlockBackend", "SpinBackend", "TrapBackend", "ExitBackend", "StderrFloodBackend"]
)
def test_calls_that_end_badly_are_misses(attach, guests, class_name, method):
    one = attach(hostile(guests, class_name, **{"config.in": method}))
    n_stored, _ = one.backup(TOKENS)
    assert n_stored == (0 if method == "put" else len(TOKENS))
    assert one.prefetch(TOKENS)[1] == []


def test_a_sound_backend_behind_a_bad_one_delivers(attach, guests, tmp_path):
    both = {**disk(guests, tmp_path / "disk"), **hostile(guests, "WrongBytesBackend"), "backends": "bad, disk"}
    one = attach(both)
    _, pages = one.backup(TOKENS)
    assert equal(one.prefetch(TOKENS)[1], pages)


@pytest.mark.parametrize("method", ["contains", "put", "get"])
def test_detach_while_a_call_hangs(attach, guests, method):
    """SGLang gives its threads ten seconds to stop; a call that hangs longer would make it refuse."""
    one = attach(hostile(guests, "HangBackend", **{"config.in": method}))
    if method == "put":
        one.controller.write_storage(one.host.alloc(len(TOKENS)), TOKENS, kvtier_names(TOKENS))
    else:
        one.backup(TOKENS)
        one.controller.prefetch("hangs", TOKENS)
        if method == "get":
            operation = one.controller.prefetch_hit_queue.get(timeout=60)
            operation.host_indices = one.host.alloc(operation.storage_hit_count)
            one.controller.prefetch_buffer.put(operation)
    one.detach()
    assert one.controller.storage_backend is None


def test_pages_are_not_given_back_while_a_transfer_uses_them(attach, guests, tmp_path, monkeypatch):
    """A transfer may outlive the call that began it. Here its release is held back, as a late transfer would."""
    held, batch = threading.Event(), kvtier.sglang.Memory.batch
    releases = []

    class LateMemory:
        @staticmethod
        def batch(addresses, n_bytes, owner, on_release):
            def late(owner):
                releases.append(lambda: on_release(owner))
                held.set()

            return batch(addresses, n_bytes, owner, late)

    one = attach(disk(guests, tmp_path / "disk"))
    monkeypatch.setattr(kvtier.sglang, "Memory", LateMemory)
    monkeypatch.setattr(kvtier.sglang, "LATE_S", 0.05)
    indices = one.host.alloc(len(TOKENS))
    one.controller.write_storage(indices, TOKENS, kvtier_names(TOKENS))
    assert held.wait(60)
    with pytest.raises(Exception, match="^$"):
        one.controller.ack_backup_queue.get(timeout=0.3)
    releases[0]()
    assert one.controller.ack_backup_queue.get(timeout=60).completed_tokens == len(TOKENS)


def tensor_rank(rank):
    """Returns SGLang's description of one of two ranks."""
    ranks = {f"{kind}tp_rank": rank for kind in ("", "attn_", "moe_")}
    return ranks | {f"{kind}tp_size": 2 for kind in ("", "attn_", "moe_")}


OTHERS = {
    "model": {"model": "other"},
    "tensor parallel rank": tensor_rank(1),
    "number of tensor parallel ranks": tensor_rank(0),
    "pipeline rank": {"pp_rank": 1, "pp_size": 2},
}


@pytest.mark.parametrize("other", OTHERS)
def test_models_and_ranks_do_not_see_each_other(attach, guests, tmp_path, other):
    first = attach(disk(guests, tmp_path / "disk"))
    first.backup(TOKENS)
    assert attach(disk(guests, tmp_path / "disk"), **OTHERS[other]).prefetch(TOKENS) == (0, [])


@pytest.mark.parametrize("pools", ["page_first_direct", "page_head", "mla page_first"])
def test_layouts_do_not_see_each_other(attach, guests, tmp_path, pools):
    attach(disk(guests, tmp_path / "disk"), POOLS["page_first"]()).backup(TOKENS)
    assert attach(disk(guests, tmp_path / "disk"), POOLS[pools]()).prefetch(TOKENS) == (0, [])


@pytest.mark.parametrize("pools", [lambda: mha_pools("page_first", dtype=torch.float16),
                                   lambda: mha_pools("page_first", heads=4, head_dim=32)],
                         ids=["dtype", "heads"])  # fmt: skip
def test_shapes_do_not_see_each_other(attach, guests, tmp_path, pools):
    attach(disk(guests, tmp_path / "disk")).backup(TOKENS)
    assert attach(disk(guests, tmp_path / "disk"), pools()).prefetch(TOKENS) == (0, [])


def test_latent_pages_are_shared_by_the_ranks(attach, guests, tmp_path):
    first = attach(disk(guests, tmp_path / "disk"), mla_pools("page_first"), **tensor_rank(0))
    _, pages = first.backup(TOKENS)
    second = attach(disk(guests, tmp_path / "disk"), mla_pools("page_first"), **tensor_rank(1))
    assert equal(second.prefetch(TOKENS)[1], pages)


@pytest.mark.parametrize(
    "pools", [lambda: mha_pools("layer_first"), lambda: mla_pools("layer_first")], ids=["mha", "mla"]
)
def test_a_pool_without_contiguous_pages_is_refused_with_the_flag(attach, guests, tmp_path, pools):
    with pytest.raises(ValueError, match="--hicache-mem-layout page_first"):
        attach(disk(guests, tmp_path / "disk"), pools())


WRONG = {
    "interface_v1 must be 1": {"interface_v1": 0},
    "did you mean hicache-storage-backend-extra-config.disk.class_name": {"disc.class_name": "FsBackend"},
    "backends is missing": {"backends": None},
    "call_timeout_ms": {"disk.limits.call_timeout_ms": "soon"},
    "none.wasm": {"disk.module_path": "none.wasm"},
}


@pytest.mark.parametrize("message", WRONG)
def test_a_wrong_configuration_is_refused(attach, guests, tmp_path, message):
    changed = disk(guests, tmp_path / "disk") | WRONG[message]
    with pytest.raises(Exception, match=message.replace(".", r"\.")):
        attach({key: value for key, value in changed.items() if value is not None})


def test_the_methods_that_copy_say_what_to_set(attach, guests, tmp_path):
    backend = attach(disk(guests, tmp_path / "disk")).backend
    for call in (
        lambda: backend.get("key"),
        lambda: backend.set("key", torch.zeros(1)),
        lambda: backend.batch_get(["key"]),
        lambda: backend.batch_set(["key"], [torch.zeros(1)]),
    ):
        with pytest.raises(NotImplementedError, match="interface_v1"):
            call()


def test_models_with_further_pools_are_refused(attach, guests, tmp_path):
    one = attach(disk(guests, tmp_path / "disk"))
    one.backend.register_mem_host_pool_v2(one.host, "kv")
    with pytest.raises(ValueError, match="mamba"):
        one.backend.register_mem_host_pool_v2(one.host, "mamba")


def test_another_interface_is_refused_with_both_versions(monkeypatch, attach, guests, tmp_path):
    def batch_get_v1(self, keys, host_indices):
        """As in an imagined later version."""

    monkeypatch.setattr(HiCacheStorage, "batch_get_v1", batch_get_v1)
    monkeypatch.setattr(kvtier.sglang.sglang, "__version__", "9.9.9")
    with pytest.raises(RuntimeMismatch, match=r"0\.5\.23.*9\.9\.9.*batch_get_v1"):
        attach(disk(guests, tmp_path / "disk"))
