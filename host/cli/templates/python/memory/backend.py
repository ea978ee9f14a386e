"""The class `Backend` of the contract. Each method is described in wit/deps/kvtier-storage/backend.wit.

Nothing can be imported after the build: keep all imports at the top.
"""

import asyncio

import wit_world
from componentize_py_types import Err, Ok
from lru import Lru
from wit_world.exports import backend as contract
from wit_world.imports import limits, logging, streams, types

CAPACITY_DEFAULT = 32 << 20
# What else has to fit `limits.memory`: the interpreter, the index, and chunks on their way.
OTHER_BYTES = 32 << 20
# `read` copies at most `limits.hostcall_bytes` in a call.
PIECE_BYTES = 1 << 20


def names(keys):
    """Returns keys that a dict takes."""
    return [(key.hi, key.lo) for key in keys]


# The generated class must be the base: without it the build succeeds, and the instance traps.
class Backend(contract.Backend):
    def __init__(self, init):
        settings = dict(init.config)
        capacity = settings.pop("capacity", str(CAPACITY_DEFAULT))
        for key in settings:
            raise Err(types.Error_InvalidConfig(f"config.{key}: unknown key; this backend knows capacity"))
        if not (capacity.isdecimal() and int(capacity) > 0):
            raise Err(types.Error_InvalidConfig("config.capacity: expected a number of bytes, at least 1"))
        memory = limits.get("memory")
        if memory is not None and int(capacity) + OTHER_BYTES > memory:
            text = f"config.capacity: {capacity} bytes and {OTHER_BYTES} more do not fit limits.memory: {memory}"
            raise Err(types.Error_InvalidConfig(text))
        self.chunks = Lru(int(capacity))
        logging.log(logging.Level.DEBUG, f"keeps {capacity} bytes of chunks of {init.metadata.model_name}")

    async def open(self):
        pass

    async def contains(self, keys, pinning):
        if pinning == types.Pinning.PIN:
            return self.chunks.pin(names(keys))
        return self.chunks.leading_run(names(keys))

    async def put(self, keys, data):
        with data:
            keys = names(keys)
            stored = set()
            results = [self._put_one(key, data, i, stored) for i, key in enumerate(keys)]
            self.chunks.use(keys)
            return results

    def _put_one(self, key, data, i, stored):
        if self.chunks.get(key) is None:
            size = data.len(i)
            if self.chunks.reserve(size, stored) is None:
                return Err(types.Error_NoSpace())
            # A chunk is kept in pieces: joined, it would need its memory twice.
            pieces = []
            try:
                for offset in range(0, size, PIECE_BYTES):
                    pieces.append(data.read(i, offset, min(PIECE_BYTES, size - offset)))
            except Err as error:
                self.chunks.release(size)
                return error
            self.chunks.insert(key, size, pieces)
        # No chunk of a call makes room for another one of the same call.
        stored.add(key)
        return Ok(None)

    async def get(self, keys, into):
        with into:
            keys = names(keys)
            self.chunks.use(keys)
            return [await self._get_one(key, into, i) for i, key in enumerate(keys)]

    async def _get_one(self, key, into, i):
        pieces = self.chunks.get(key)
        if pieces is None:
            return Ok(None)
        size = sum(map(len, pieces))
        if size > into.capacity(i):
            # A larger chunk is not the one that the host wants.
            return Ok(size)
        # Not `into.write`: componentize-py never frees the bytes that an imported function takes.
        writer, reader = wit_world.byte_stream()

        async def feed():
            with writer:
                for piece in pieces:
                    await writer.write_all(piece)

        # Both have ended when `gather` returns: `into` must not be given back while it is lent.
        write = streams.write_stream(into, i, 0, reader)
        written, _ = await asyncio.gather(write, feed(), return_exceptions=True)
        if isinstance(written, Err):
            return written
        if isinstance(written, BaseException):
            raise written
        return Ok(written)

    async def pin(self, keys):
        return self.chunks.pin(names(keys))

    async def unpin(self, keys):
        return self.chunks.unpin(names(keys))

    async def remove(self, keys):
        return sum(self.chunks.remove(key) is not None for key in names(keys))

    async def close(self):
        pass
