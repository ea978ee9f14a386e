"""kvtier's exceptions."""


class KvtierError(Exception):
    """The base of kvtier's exceptions."""


class ConfigError(KvtierError, ValueError):
    """The configuration is wrong. The message names the file and the key, and says what to do."""


class BuildError(KvtierError):
    """An engine could not be built: its pool could not be reserved, or a backend could not be loaded."""


class ClosedError(KvtierError):
    """The engine is closed, or belongs to the process that this one was forked from."""


class CloseError(KvtierError):
    """Backends did not close cleanly. The engine is closed nevertheless."""


class FlushError(KvtierError, TimeoutError):
    """Puts were still pending when the limit passed."""


class RequestError(KvtierError, ValueError):
    """The request cannot be served: it does not fit the engine, or a chunk can never be allocated."""


class UnknownBackendError(KvtierError, LookupError):
    """No backend of the chain has the name."""


class RecreateError(KvtierError):
    """A backend could not be created again."""


class RemoveError(KvtierError):
    """A backend could not be asked to remove chunks. Even so, it no longer serves them."""
