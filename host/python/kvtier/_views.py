"""The operations of an engine or a storage as futures and as coroutines."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class _View:
    """Gives the waiting operations of a chain another form."""

    _OPERATIONS = frozenset(
        {
            "allocate",
            "close",
            "contains",
            "contains_each",
            "fetch_into",
            "flush",
            "get",
            "lookup",
            "put_lent",
            "recreate",
            "remove",
            "retrieve",
            "store",
            "unpin",
        }
    )

    def __init__(self, chain: Any) -> None:
        self._chain = chain

    def __dir__(self) -> list[str]:
        return sorted(name for name in self._OPERATIONS if hasattr(self._chain, name))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._chain,)

    def _operation(self, name: str) -> Callable[..., Any]:
        if name not in self._OPERATIONS:
            raise AttributeError(
                f"{name!r} is not a waiting operation; those are {', '.join(sorted(self._OPERATIONS))}"
            )
        return getattr(self._chain, name)  # type: ignore[no-any-return]


class Futures(_View):
    """Each operation starts at once and returns a ``concurrent.futures.Future``.

    The future completes on the thread ``kvtier-events``, where its callbacks run: they must be short and must not wait
    for kvtier. Cancelling a future does not stop the operation.
    """

    def __getattr__(self, name: str) -> Callable[..., Future[Any]]:
        operation = self._operation(name)

        def start(*args: Any, **kwargs: Any) -> Future[Any]:
            future: Future[Any] = Future()
            operation(*args, _future=future, **kwargs)
            return future

        start.__name__, start.__doc__ = name, operation.__doc__
        self.__dict__[name] = start
        return start


class Coroutines(_View):
    """Each operation is a coroutine for asyncio. Cancelling one does not stop the operation.

    ``async with engine.aio as aio:`` closes the engine at the end of the block.
    """

    async def __aenter__(self) -> Coroutines:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        start = getattr(Futures(self._chain), name)

        async def run(*args: Any, **kwargs: Any) -> Any:
            # Whoever awaits this has it already; for others it is large.
            import asyncio

            return await asyncio.wrap_future(start(*args, **kwargs))

        run.__name__, run.__doc__ = name, start.__doc__
        self.__dict__[name] = run
        return run
