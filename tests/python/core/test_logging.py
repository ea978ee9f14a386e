"""kvtier's lines in Python's `logging`: they arrive, by level and target, and no thread of kvtier's calls Python."""

import logging
import threading

import chains
import pytest
from conftest import eventually


@pytest.fixture
def records():
    """Collects the records of kvtier's loggers, at any level."""
    collected = []

    class Handler(logging.Handler):
        def emit(self, record):
            collected.append(record)

    handler, logger = Handler(), logging.getLogger("kvtier")
    before = logger.level
    logger.addHandler(handler)
    yield collected
    logger.removeHandler(handler)
    logger.setLevel(before)


def messages(records):
    return [record.getMessage() for record in records]


def test_lines_arrive_on_the_thread_of_events(storage, records, tmp_path):
    logging.getLogger("kvtier").setLevel(logging.INFO)
    storage({"disk": chains.disk(tmp_path)})
    assert eventually(lambda: [text for text in messages(records) if "backend ready" in text and "disk" in text])
    assert {record.threadName for record in records} == {"kvtier-events"}
    assert all(record.name.startswith("kvtier.") for record in records)
    ready = next(record for record in records if "backend ready" in record.getMessage())
    assert ready.levelno == logging.INFO and "class=FsBackend" in ready.getMessage()


def test_nothing_of_kvtier_but_its_thread_of_events_is_known_to_python(storage, records, tmp_path):
    logging.getLogger("kvtier").setLevel(logging.DEBUG)
    chain = storage({"disk": chains.disk(tmp_path), "late": chains.guest("LateBackend", ms=10)})
    keys = chain.keys(map(str, range(20)))
    chain.put_lent(keys, [b"x"] * 20).stored()
    chain.futures.fetch_into(keys, [bytearray(1) for _ in range(20)]).result(60)
    # A thread of another language that calls Python becomes a dummy thread.
    names = {thread.name for thread in threading.enumerate()}
    assert not [name for name in names if name.startswith("Dummy")]
    assert len([name for name in names if name.startswith("kvtier")]) == 1


def test_a_logger_below_may_be_more_detailed(storage, records):
    """`logging` knows a level for each logger, and the lines of a more detailed one are made."""
    logging.getLogger("kvtier").setLevel(logging.WARNING)
    below = logging.getLogger("kvtier.backend")
    below.setLevel(logging.DEBUG)
    try:
        chain = storage({"good": chains.guest("GoodBackend")})
        chain.put_lent(chain.keys(["a"]), [b"x"]).stored()
        assert eventually(lambda: [text for text in messages(records) if "put " in text])
    finally:
        below.setLevel(logging.NOTSET)
    assert {record.name for record in records if record.levelno < logging.WARNING} == {"kvtier.backend"}


def test_the_level_is_respected_and_can_be_changed(storage, records):
    logger = logging.getLogger("kvtier")
    keys = None

    def put(chain):
        nonlocal keys
        keys = chain.keys(["a"])
        chain.put_lent(keys, [b"x"]).stored()

    # `GoodBackend` writes every call at debug.
    logger.setLevel(logging.WARNING)
    quiet = storage({"good": chains.guest("GoodBackend")})
    put(quiet)
    quiet.futures.contains(keys).result(60)
    assert [record for record in records if record.levelno < logging.WARNING] == []
    logger.setLevel(logging.DEBUG)
    loud = storage({"good": chains.guest("GoodBackend")})
    put(loud)
    assert eventually(
        lambda: [record for record in records if record.levelno == logging.DEBUG and "put " in record.getMessage()]
    )
    logger.setLevel(logging.ERROR)
    silent = storage({"good": chains.guest("GoodBackend")})
    silent.futures.contains(keys).result(60)
    records.clear()
    put(silent)
    silent.futures.contains(keys).result(60)
    assert records == []


def test_text_of_a_backend_is_data(storage, records):
    # Its lines have percent signs, escapes and line breaks in them.
    logging.getLogger("kvtier").setLevel(logging.INFO)
    chain = storage({"loud": chains.guest("LogFloodBackend", lines=3)})
    chain.contains(chain.keys(["a"]))
    assert eventually(lambda: [text for text in messages(records) if "of the flood" in text])
    flood = [text for text in messages(records) if "of the flood" in text]
    assert not any("\x1b" in text or "\n" in text for text in flood)


def test_handlers_that_fail_or_use_kvtier_leave_the_thread_of_events_alive(storage, records):
    logger = logging.getLogger("kvtier")
    logger.setLevel(logging.INFO)
    chain = storage({"good": chains.guest("GoodBackend")})
    keys = chain.keys(["a"])

    class Fails(logging.Handler):
        def emit(self, record):
            raise RuntimeError("on purpose")

    class Exits(logging.Handler):
        def emit(self, record):
            raise SystemExit(3)

    class Uses(logging.Handler):
        def emit(self, record):
            found.append(chain.contains(keys))

    found = []
    for handler in (Fails(), Exits(), Uses()):
        logger.addHandler(handler)
        try:
            storage({"good": chains.guest("GoodBackend")})
            assert chain.futures.contains(keys).result(60) == 0
        finally:
            logger.removeHandler(handler)
    assert found and set(found) == {0}


def test_lines_before_any_handler_do_no_harm(program):
    done = program(
        """
s = chains.storage({"good": chains.guest("GoodBackend")})
print(s.contains(s.keys(["a"])))
"""
    )
    assert done.ended_well() == ["0"] and done.err == ""


def test_an_error_is_seen_without_any_configuration_of_logging(program):
    done = program(
        """
section = {**chains.guest("GoodBackend"), "class_name": "NoSuchClass"}
s = chains.storage({"bad": section}, on_load_error="continue")
end = time.monotonic() + 60
while s.status().backends[0].down is None and time.monotonic() < end:
    time.sleep(0.01)
print(s.status().backends[0].is_up)
s.close()
"""
    )
    assert done.ended_well() == ["False"] and "NoSuchClass" in done.err
