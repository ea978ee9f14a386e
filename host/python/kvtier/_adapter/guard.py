"""Failures of an adapter's methods become the runtime's word for a miss."""

import functools
import inspect
import logging
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any


class Guard:
    """Counts the exceptions of an adapter's methods, and logs them at most once a second."""

    def __init__(
        self, logger: logging.Logger, *, interval_s: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._logger = logger
        self._interval_s = interval_s
        self._clock = clock
        self._lock = threading.Lock()
        self._n_failures = 0
        self._n_unlogged = 0
        self._logged_at: float | None = None

    @property
    def n_failures(self) -> int:
        """How many calls have failed since the start."""
        return self._n_failures

    def failed(self, what: str, error: BaseException) -> None:
        """Takes note of a failure. Never raises."""
        with self._lock:
            self._n_failures += 1
            now = self._clock()
            if self._logged_at is not None and now - self._logged_at < self._interval_s:
                self._n_unlogged += 1
                return
            self._logged_at = now
            n_unlogged, self._n_unlogged = self._n_unlogged, 0
        more = f" ({n_unlogged} more failures since the last message)" if n_unlogged else ""
        self._logger.error("%s failed and counts as a miss: %s: %s%s", what, type(error).__name__, error, more)
        if self._logger.isEnabledFor(logging.DEBUG):
            self._logger.debug("".join(traceback.format_exception(error)))


def guarded(answer: Any = None, *, make: Callable[..., Any] | None = None) -> Callable[[Callable[..., Any]], Any]:
    """Makes a method answer in the place of an exception: with `answer`, or with what `make` returns.

    `make` gets the method's arguments, without `self`. The object has its `Guard` as `_guard`. Works for coroutine
    methods as well. `KeyboardInterrupt`, `SystemExit` and cancellation pass.
    """

    def answered(self: Any, what: str, error: Exception, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._guard.failed(what, error)
        return answer if make is None else make(*args, **kwargs)

    def wrap(method: Callable[..., Any]) -> Callable[..., Any]:
        what = method.__qualname__
        if inspect.iscoroutinefunction(method):

            @functools.wraps(method)
            async def call_async(self: Any, *args: Any, **kwargs: Any) -> Any:
                try:
                    return await method(self, *args, **kwargs)
                except Exception as error:
                    return answered(self, what, error, args, kwargs)

            return call_async

        @functools.wraps(method)
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return method(self, *args, **kwargs)
            except Exception as error:
                return answered(self, what, error, args, kwargs)

        return call

    return wrap
