"""A storage plugin in plain Python, as somebody might write one, with one thing wrong. The controls of the tests: what
such a plugin does to LMCache, a misbehaving component behind kvtier must not do.
"""

import time

import torch
from lmcache.v1.storage_backend import abstract_backend

Plugin = (
    getattr(abstract_backend, "StoragePluginInterface", None) or abstract_backend.ConfigurableStorageBackendInterface
)


class PythonPlugin(Plugin):
    """Keeps chunks in a dictionary. `wrong`: None; "raise" in lookups and gets; "sleep" `seconds` in gets; "flip" one
    bit of each chunk that is read. Tests set both.
    """

    wrong, seconds = None, 0.0

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.chunks = {}

    def contains(self, key, pin=False):
        self._go_wrong()
        return key in self.chunks

    def exists_in_put_tasks(self, key):
        return False

    def batched_submit_put_task(self, keys, objs, transfer_spec=None, on_complete_callback=None):
        self.chunks |= {key: obj.tensor.clone() for key, obj in zip(keys, objs, strict=True)}

    def get_blocking(self, key):
        self._go_wrong()
        chunk = self.chunks[key]
        obj = self.local_cpu_backend.allocate(chunk.shape, chunk.dtype)
        obj.tensor.copy_(chunk)
        if self.wrong == "flip":
            obj.tensor.view(torch.int16)[0, 0, 0, 0] ^= 0x4000
        return obj

    def pin(self, key):
        return True

    def unpin(self, key):
        return True

    def remove(self, key, force=True):
        return self.chunks.pop(key, None) is not None

    def get_allocator_backend(self):
        return self.local_cpu_backend

    def close(self):
        pass

    def _go_wrong(self):
        if self.wrong == "raise":
            raise OSError("the store does not answer")
        if self.wrong == "sleep":
            time.sleep(self.seconds)
