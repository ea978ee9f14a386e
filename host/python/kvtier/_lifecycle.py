"""Start, fork and exit: the thread of events, and the chains that are open."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import traceback
import weakref
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from kvtier import _kvtier

_LOG = logging.getLogger("kvtier")
_open: weakref.WeakSet[Any] = weakref.WeakSet()
# A signal handler may open a chain while the main thread starts one.
_lock = threading.RLock()
_events: threading.Thread | None = None

# How long the exit of the interpreter waits for the thread of events, in seconds.
_EXIT_WAIT_S = 5.0

# Runs the compiler without the user's site packages: only this package and the standard library.
_COMPILER = "import sys; sys.path.append({path!r}); from kvtier._kvtier import main; sys.exit(main(sys.argv[1:]))"


def start() -> None:
    """Starts the thread of events, unless it runs."""
    global _events
    with _lock:
        _kvtier.set_log_level(_level())
        if _events is None or not _events.is_alive():
            _events = threading.Thread(target=_handle_events, name="kvtier-events", daemon=True)
            _events.start()
            _close_with_multiprocessing()


def _handle_events() -> None:
    # Here, in frames of Python: CPython may end this thread while the interpreter is finalized.
    while _handle_some():
        pass


def _handle_some() -> bool:
    # What a call is given is released when the call has ended, not when the next event comes.
    calls = _kvtier.next_events()
    if calls is None:
        return False
    calls.reverse()
    while calls:
        function, *arguments = calls.pop()
        try:
            function(*arguments)
        except BaseException as error:
            # Also of sys.exit: only the main thread ends the program, and this one must go on.
            _report(function, error)
        del function, arguments
    return True


def _report(function: object, error: BaseException) -> None:
    try:
        _LOG.error("%r failed", function, exc_info=error)
    except BaseException:
        # A filter or a handler of the user's, and this thread must go on.
        traceback.print_exception(error)


def complete(future: Future[Any], value: Any, error: BaseException | None) -> None:
    """Completes a future, unless its waiter has cancelled it."""
    if not future.set_running_or_notify_cancel():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)


def register(chain: Any) -> None:
    """Notes an open chain, to be closed when the interpreter exits."""
    _open.add(chain)


def log(level: int, target: str, message: str, n_dropped: int) -> None:
    """Hands a line of kvtier's to ``logging``."""
    logger = logging.getLogger(target)
    if n_dropped:
        logger.warning("%d log lines were dropped, because too many came at once", n_dropped)
    logger.log(level, "%s", message)
    _kvtier.set_log_level(_level())


def _level() -> int:
    """Returns the most detailed level of kvtier's loggers. Less detailed lines are not made."""
    loggers = list(logging.Logger.manager.loggerDict.items())
    own = [
        logger.level for name, logger in loggers if name.startswith("kvtier.") and isinstance(logger, logging.Logger)
    ]
    return min([_LOG.getEffectiveLevel(), *filter(None, own)])


def compiler_command() -> tuple[str, list[str]] | None:
    """Returns the command that compiles components: this interpreter, with nothing but kvtier in it.

    ``None`` if the interpreter is part of another program. Components are then compiled in this process.
    """
    program = sys.executable
    if not program or not Path(program).name.lower().startswith(("python", "pypy")):
        return None
    package = str(Path(__file__).absolute().parent.parent)
    return program, ["-I", "-S", "-c", _COMPILER.format(path=package)]


def _close_with_multiprocessing() -> None:
    """Has chains closed when a child of ``multiprocessing`` ends. A forked one runs no handlers of ``atexit``."""
    multiprocessing = sys.modules.get("multiprocessing.process")
    if multiprocessing is not None and multiprocessing.parent_process() is not None:
        from multiprocessing.util import Finalize

        Finalize(None, _close_chains, exitpriority=0)


def _close_chains() -> None:
    for chain in list(_open):
        try:
            chain.close()
        except Exception as error:
            _LOG.warning("%s", error)


def _close_all() -> None:
    try:
        _close_chains()
        _kvtier.stop_events()
        if _events is not None:
            _events.join(_EXIT_WAIT_S)
    finally:
        # Also after a Ctrl-C: from here on no thread of kvtier's wakes Python, and no other one is in kvtier.
        _kvtier.close_gate()


def _after_fork_in_child() -> None:
    global _events, _lock
    # Another thread of the parent may have held it.
    _lock = threading.RLock()
    _events = None
    _kvtier.drop_events()
    for chain in list(_open):
        chain._abandon()
    _open.clear()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_after_fork_in_child)
