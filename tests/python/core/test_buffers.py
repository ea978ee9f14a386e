"""Buffers and lifetimes: views of chunks, allocations, and memory that is lent."""

import ctypes
import gc

import chains
import kvtier
import numpy as np
import pytest
from chains import CHUNK_BYTES, fill, store_prompt
from conftest import eventually


@pytest.fixture
def chunks(cpu):
    store_prompt(cpu, range(64))
    return cpu.retrieve(range(64)).chunks


# --- Chunks --------------------------------------------------------------------------------------------------------


def test_a_chunk_is_read_only_bytes_at_its_address(chunks):
    for position, chunk in enumerate(chunks):
        view = memoryview(chunk)
        assert view.readonly and view.format == "B" and view.nbytes == len(chunk) == CHUNK_BYTES
        assert bytes(view) == bytes([position + 1]) * CHUNK_BYTES
        assert np.frombuffer(chunk, np.uint8).ctypes.data == chunk.address
        assert len(chunk.key) == 16


def test_nobody_gets_a_writable_view_of_a_chunk(chunks):
    view = memoryview(chunks[0])
    with pytest.raises(TypeError):
        view[0] = 1
    with pytest.raises((BufferError, TypeError), match="not writable"):
        ctypes.c_char.from_buffer(chunks[0])
    array = np.frombuffer(chunks[0], np.uint8)
    assert not array.flags.writeable
    with pytest.raises(ValueError):
        array.flags.writeable = True


def test_the_same_chunk_is_shared_and_not_copied(cpu, chunks):
    again = cpu.retrieve(range(64)).chunks
    assert [chunk.address for chunk in again] == [chunk.address for chunk in chunks]
    first, size = cpu.pool
    assert all(first <= chunk.address < first + size for chunk in chunks)


def test_views_outlive_the_chunk_and_the_closed_engine(engine):
    kept = engine()
    store_prompt(kept, range(64))
    chunks = kept.retrieve(range(64)).chunks
    view, array = memoryview(chunks[1]), np.frombuffer(chunks[2], np.uint8)
    tensor = np.from_dlpack(chunks[3])
    kept.close()
    del chunks, kept
    gc.collect()
    assert bytes(view) == bytes([2]) * CHUNK_BYTES
    assert (array == 3).all() and (tensor == 4).all()


def test_a_viewed_chunk_is_not_evicted_from_under_its_view(engine):
    kept = engine(top={"max_local_cpu_size": 0.0002})
    store_prompt(kept, range(64))
    view = memoryview(kept.retrieve(range(64)).chunks[0])
    before = bytes(view)
    for turn in range(1, 80):
        store_prompt(kept, [turn * 1000 + token for token in range(64)])
    assert kept.status().cpu.evictions > 0
    assert bytes(view) == before == bytes([1]) * CHUNK_BYTES


def test_memory_of_chunks_is_free_when_the_last_view_is_gone(engine):
    kept = engine()
    store_prompt(kept, range(64))
    view = memoryview(kept.retrieve(range(64)).chunks[0])
    held = kept.status().cpu.allocated_bytes
    kept.remove(range(64))
    assert kept.status().cpu.entries == 0
    assert 0 < kept.status().cpu.allocated_bytes < held
    del view
    assert kept.status().cpu.allocated_bytes == 0


# --- DLPack --------------------------------------------------------------------------------------------------------


def test_numpy_takes_a_chunk_read_only_and_in_place(chunks):
    array = np.from_dlpack(chunks[0])
    assert array.dtype == np.uint8 and array.shape == (CHUNK_BYTES,) and array.strides == (1,)
    assert array.ctypes.data == chunks[0].address
    assert not array.flags.writeable


def test_torch_takes_a_chunk_in_place(chunks):
    torch = pytest.importorskip("torch")
    tensor = torch.from_dlpack(chunks[1])
    assert tensor.dtype == torch.uint8 and tensor.data_ptr() == chunks[1].address
    assert bool((tensor == 2).all())
    assert tensor.view(torch.bfloat16).shape == (CHUNK_BYTES // 2,)


def test_consumers_that_could_write_or_move_a_chunk_are_refused(chunks):
    chunk = chunks[0]
    assert chunk.__dlpack_device__() == (1, 0)
    for arguments in (
        {},
        {"max_version": None},
        {"max_version": (0, 8)},
        {"max_version": (1, 0), "copy": True},
        {"max_version": (1, 0), "dl_device": (2, 0)},
    ):
        with pytest.raises(BufferError):
            chunk.__dlpack__(**arguments)
    with pytest.raises(TypeError):
        chunk.__dlpack__(max_version="1.0")
    with pytest.raises((TypeError, OverflowError)):
        chunk.__dlpack__(max_version=(-1, 0))


def test_capsules_give_their_memory_back_used_or_not(engine):
    kept = engine()
    store_prompt(kept, range(16))
    chunk = kept.retrieve(range(16)).chunks[0]
    kept.remove(range(16))
    unused = [chunk.__dlpack__(max_version=(1, 0)) for _ in range(10)]
    arrays = [np.from_dlpack(chunk) for _ in range(10)]
    views = [array[5:] for array in arrays]
    del chunk, unused, arrays
    assert kept.status().cpu.allocated_bytes > 0
    del views
    assert kept.status().cpu.allocated_bytes == 0


# --- Allocations ---------------------------------------------------------------------------------------------------


def test_an_allocation_is_written_in_place(cpu):
    with cpu.allocate(range(32)) as allocation:
        missing = allocation.missing
        assert [one.position for one in missing] == [0, 1] and allocation.n_covered == 2
        assert [one.key for one in missing] == [cpu.prompt(range(32)).keys[:16], cpu.prompt(range(32)).keys[16:]]
        for one in missing:
            array = np.frombuffer(one, np.uint8)
            assert array.flags.writeable and array.ctypes.data == one.address and len(one) == CHUNK_BYTES
            array[:] = 7
            del array
        assert cpu.store(allocation).n_new == 2
        addresses = [one.address for one in missing]
    chunks = cpu.retrieve(range(32)).chunks
    assert [chunk.address for chunk in chunks] == addresses
    assert all(bytes(chunk) == b"\x07" * CHUNK_BYTES for chunk in chunks)


def test_an_allocation_is_not_stored_while_a_view_is_alive(cpu):
    allocation = cpu.allocate(range(32))
    fill(allocation)
    view = memoryview(allocation.missing[1])
    array = np.frombuffer(view, np.uint8)
    for attempt in (lambda: cpu.store(allocation), allocation.release, lambda: allocation.__exit__(None, None, None)):
        with pytest.raises(BufferError, match="views of the allocation are alive"):
            attempt()
    del view
    with pytest.raises(BufferError):
        cpu.store(allocation)
    array[:] = 9
    del array
    assert cpu.store(allocation).n_new == 2
    assert bytes(cpu.retrieve(range(32)).chunks[1]) == b"\x09" * CHUNK_BYTES


def test_a_stored_or_released_allocation_has_no_bytes(cpu):
    stored, released = cpu.allocate(range(32)), cpu.allocate(range(1000, 1032))
    of_stored, of_released = stored.missing[0], released.missing[0]
    fill(stored)
    cpu.store(stored)
    released.release()
    released.release()
    for one, allocation in ((of_stored, stored), (of_released, released)):
        with pytest.raises(BufferError, match="stored or released"):
            memoryview(one)
        with pytest.raises(ValueError, match="stored or released"):
            allocation.missing
        with pytest.raises(ValueError, match="stored or released"):
            cpu.store(allocation)
    assert cpu.lookup(range(1000, 1032)).n_chunks == 0


def test_leaving_a_with_block_gives_buffers_back(cpu):
    with pytest.raises(RuntimeError, match="on purpose"):
        with cpu.allocate(range(64)) as allocation:
            assert cpu.status().cpu.allocated_bytes >= 4 * CHUNK_BYTES
            raise RuntimeError("on purpose")
    assert cpu.status().cpu.allocated_bytes == 0
    with cpu.allocate(range(64)):
        pass
    assert cpu.status().cpu.allocated_bytes == 0
    cpu.allocate(range(64))
    gc.collect()
    assert cpu.status().cpu.allocated_bytes == 0
    assert cpu.lookup(range(64)).n_chunks == 0
    with pytest.raises(ValueError):
        allocation.missing


def test_a_view_of_an_allocation_outlives_everything_else(engine):
    kept = engine()
    view = memoryview(kept.allocate(range(32)).missing[0])
    kept.close()
    del kept
    gc.collect()
    view[:] = b"\x05" * CHUNK_BYTES
    assert view[-1] == 5


def test_present_chunks_are_not_allocated_again(cpu):
    store_prompt(cpu, range(32))
    with cpu.allocate(range(64)) as allocation:
        assert allocation.n_present == 2 and [one.position for one in allocation.missing] == [2, 3]


def test_an_allocation_is_cut_short_where_memory_ends(engine):
    small = engine(top={"max_local_cpu_size": 0.0001})
    with small.allocate(range(16 * 1000)) as allocation:
        assert 0 < allocation.n_covered < 1000
        assert len(allocation.missing) == allocation.n_covered


# --- Memory that is lent -------------------------------------------------------------------------------------------


def test_a_lent_bytearray_cannot_be_resized_until_the_transfer_has_ended(storage):
    slow = storage({"slow": chains.guest("SlowMemory", ms=300)})
    keys = slow.keys(["a"])
    source = bytearray(b"x" * 1000)
    receipt = slow.put_lent(keys, [source])
    for change in (lambda: source.append(1), source.clear, lambda: source.extend(b"yy")):
        with pytest.raises(BufferError):
            change()
    assert receipt.stored() == [True]
    # The receipt is complete a moment before the memory is released.
    assert eventually(lambda: not is_locked(source))
    target = bytearray(1000)
    future = slow.futures.fetch_into(keys, [target])
    with pytest.raises(BufferError):
        target.clear()
    assert future.result() == [1000]
    target.append(2)
    assert target[:1000] == b"x" * 1000


def is_locked(array):
    try:
        array.append(0)
    except BufferError:
        return True
    return False


def test_a_fetch_has_released_its_memory_when_it_returns(disk):
    keys = disk.keys(["a", "b"])
    assert disk.put_lent(keys, [b"x" * 10, b"y" * 20]).stored() == [True, True]
    for fetch in (disk.fetch_into, lambda *args: disk.futures.fetch_into(*args).result()):
        targets = [bytearray(30), bytearray(30)]
        assert fetch(keys, targets) == [10, 20]
        for target in targets:
            target.append(1)


def test_a_refused_call_leaves_its_buffers_as_they_were(disk):
    keys = disk.keys(["a", "b", "c"])
    array = np.zeros(10, np.uint8)
    memory = kvtier.Memory(array.ctypes.data, 10, array)
    for wrong in ([bytearray(10), 5], [bytearray(10), b""], [memory, memory, bytearray(10)]):
        for call in (disk.put_lent, disk.fetch_into):
            with pytest.raises((TypeError, BufferError, ValueError)):
                call(keys[: 16 * len(wrong)], wrong)
            for one in wrong:
                if isinstance(one, bytearray):
                    one.append(1)


def test_deleting_every_name_of_a_lent_buffer_leaves_the_transfer_alone(storage):
    slow = storage({"slow": chains.guest("SlowMemory", ms=200)})
    keys = slow.keys(["a"])
    source = np.full(100_000, 3, np.uint8)
    receipt = slow.put_lent(keys, [source])
    del source
    gc.collect()
    assert receipt.stored() == [True]
    target = bytearray(100_000)
    assert slow.fetch_into(keys, [target]) == [100_000]
    assert target == b"\x03" * 100_000


def test_buffers_of_many_kinds_are_lent(disk):
    kinds = {
        "bytes": b"k" * 24,
        "bytearray": bytearray(b"k" * 24),
        "memoryview": memoryview(b"..kkkkkkkkkkkkkkkkkkkkkkkk..")[2:26],
        "numpy": np.frombuffer(b"k" * 24, np.int64),
        "matrix": np.frombuffer(b"k" * 24, np.uint8).reshape(2, 3, 4),
    }
    keys = disk.keys(list(kinds))
    assert all(disk.put_lent(keys, list(kinds.values())).stored())
    targets = [
        bytearray(24),
        memoryview(bytearray(24)),
        np.zeros(3, np.int64),
        np.zeros((4, 6), np.uint8),
        bytearray(99),
    ]
    assert disk.fetch_into(keys, targets) == [24] * 5
    assert all(bytes(target)[:24] == b"k" * 24 for target in targets)


def test_a_chunk_can_be_lent(cpu, disk):
    store_prompt(cpu, range(16))
    chunk = cpu.retrieve(range(16)).chunks[0]
    keys = disk.keys(["a"])
    assert disk.put_lent(keys, [chunk]).stored() == [True]
    with pytest.raises(BufferError):
        disk.fetch_into(keys, [chunk])
    target = bytearray(CHUNK_BYTES)
    assert disk.fetch_into(keys, [target]) == [CHUNK_BYTES] and target == bytes(chunk)
