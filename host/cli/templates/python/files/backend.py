"""The class `Backend` of the contract. Each method is described in wit/deps/kvtier-storage/backend.wit.

No byte of a chunk passes through Python: the host moves them between its buffers and files. Calls overlap at each
`await`.

Nothing can be imported after the build: keep all imports at the top.
"""

from componentize_py_types import Err, Ok
from files import File, parse
from lru import Lru
from wit_world.exports import backend as contract
from wit_world.imports import directory, logging, types

CAPACITY_DEFAULT = 1 << 30
# The guest's path of a grant in `allow.fs`.
ROOT_DEFAULT = "/data"


def names(keys):
    """Returns keys that a dict takes."""
    return [(key.hi, key.lo) for key in keys]


# The generated class must be the base: without it the build succeeds, and the instance traps.
class Backend(contract.Backend):
    def __init__(self, init):
        settings = dict(init.config)
        capacity = settings.pop("capacity", str(CAPACITY_DEFAULT))
        root = settings.pop("root", ROOT_DEFAULT)
        for key in settings:
            raise Err(types.Error_InvalidConfig(f"config.{key}: unknown key; this backend knows capacity and root"))
        if not (capacity.isdecimal() and int(capacity) > 0):
            raise Err(types.Error_InvalidConfig("config.capacity: expected a number of bytes, at least 1"))
        # Engines with other models or layouts have other namespaces.
        self.directory = f"{root.rstrip('/')}/{init.namespace}"
        self.chunks = Lru(int(capacity))
        self.next_number = 0

    async def open(self):
        last = ""
        while entries := await directory.list(self.directory, last):
            last = entries[-1].name
            # Within a page, the oldest file counts as used longest ago.
            for entry in sorted(entries, key=lambda entry: entry.modified_ns):
                for name in self._take_in(entry):
                    await directory.remove(f"{self.directory}/{name}")

    def _take_in(self, entry):
        """Takes in a file, and returns the names of those to remove instead."""
        file = parse(entry.name)
        if file is None or entry.kind != types.EntryKind.FILE:
            return []
        self.next_number = max(self.next_number, file.number + 1)
        if file.is_temporary or self.chunks.get(file.key) is not None:
            return [entry.name]
        evicted = self.chunks.reserve(entry.size, ())
        if evicted is None:
            return [entry.name]
        self.chunks.insert(file.key, entry.size, entry.name)
        return evicted

    async def contains(self, keys, pinning):
        if pinning == types.Pinning.PIN:
            return self.chunks.pin(names(keys))
        return self.chunks.leading_run(names(keys))

    async def put(self, keys, data):
        with data:
            keys = names(keys)
            results, writing, evicted = self._reserve(keys, data)
            await self._remove_files(evicted)
            files = [types.FileToStore(i, f"{name}.tmp", name) for i, _, _, name in writing]
            stored = await directory.store_all(data, self.directory, files, types.Caching.CACHED)
            unwanted = []
            for (_, key, size, name), result in zip(writing, stored, strict=True):
                if isinstance(result, Ok) and self.chunks.get(key) is None:
                    self.chunks.insert(key, size, name)
                    continue
                # It was not written, or another call was faster and its file counts.
                self.chunks.release(size)
                if isinstance(result, Ok):
                    unwanted.append(name)
                else:
                    results[key] = result
            await self._remove_files(unwanted)
            self.chunks.use(keys)
            return [results[key] for key in keys]

    def _reserve(self, keys, data):
        """Reserves room for the chunks that are absent, each once. Returns the result of each key, what is to be
        written, and the files to remove first."""
        results, writing, evicted = {}, [], []
        # No chunk of a call makes room for another one of the same call.
        keep = set(keys)
        for i, key in enumerate(keys):
            # A chunk that is present keeps its bytes.
            if key in results:
                continue
            results[key] = Ok(None)
            if self.chunks.get(key) is not None:
                continue
            size = data.len(i)
            removed = self.chunks.reserve(size, keep)
            if removed is None:
                results[key] = Err(types.Error_NoSpace())
                continue
            evicted += removed
            writing.append((i, key, size, File(key, self.next_number).name))
            self.next_number += 1
        return results, writing, evicted

    async def get(self, keys, into):
        with into:
            keys = names(keys)
            self.chunks.use(keys)
            found = [(i, key, self.chunks.get(key)) for i, key in enumerate(keys)]
            found = [(i, key, name) for i, key, name in found if name is not None]
            files = [types.FileToLoad(i, name) for i, _, name in found]
            loaded = await directory.load_all(into, self.directory, files, types.Caching.CACHED)
            results = [Ok(None)] * len(keys)
            for (i, key, name), result in zip(found, loaded, strict=True):
                results[i] = result
                is_gone = isinstance(result, Ok) and result.value is None
                if is_gone and self.chunks.get(key) == name:
                    self.chunks.remove(key)
            return results

    async def pin(self, keys):
        return self.chunks.pin(names(keys))

    async def unpin(self, keys):
        return self.chunks.unpin(names(keys))

    async def remove(self, keys):
        removed = [self.chunks.remove(key) for key in names(keys)]
        removed = [name for name in removed if name is not None]
        for name in removed:
            await directory.remove(f"{self.directory}/{name}")
        return len(removed)

    async def close(self):
        pass

    async def _remove_files(self, removed):
        """Removes files that the index no longer has. One that stays is taken in again by the next `open`."""
        for name in removed:
            try:
                await directory.remove(f"{self.directory}/{name}")
            except Err as error:
                logging.log(logging.Level.WARN, f"cannot remove {name}: {error.value}")
