"""SGLang's radix tree keeps prompts in storage with `kvtier.sglang.KvtierHiCache`.

Proves: a prompt that one tree has written through is found and fetched by another one, byte for byte; wrong bytes and
calls that hang leave the tree without the prompt, which it then computes.

Real: SGLang's radix tree, its controller, pools and hashes; kvtier's components.
Stands in: see `tree.py`. Not driven: SGLang's scheduler and model runner.
"""

import pytest
from controller import PAGE_TOKENS
from test_hicache import disk, hostile
from tree import Tree

TOKENS = list(range(8 * PAGE_TOKENS))


@pytest.fixture
def grow(monkeypatch):
    """Makes trees with storage, and detaches it afterwards."""
    trees = []

    def new(extra):
        trees.append(Tree(monkeypatch, extra))
        return trees[-1]

    yield new
    for tree in trees:
        tree.close()


def test_what_one_tree_wrote_through_another_one_fetches(grow, guests, tmp_path):
    first = grow(disk(guests, tmp_path / "disk"))
    values = first.insert(TOKENS)
    first.wait_for_backup()
    second = grow(disk(guests, tmp_path / "disk"))
    assert not second.has_on_host(values)
    assert second.prefetch(TOKENS + list(range(1000, 1000 + 4 * PAGE_TOKENS))) == len(TOKENS)
    assert second.has_on_host(values)


def test_control_an_empty_storage_has_nothing(grow, guests, tmp_path):
    assert grow(disk(guests, tmp_path / "disk")).prefetch(TOKENS) == 0


def test_control_after_a_reset_the_tree_finds_its_prompt_in_a_sound_backend(grow, guests):
    tree = grow(hostile(guests, "GoodBackend"))
    tree.insert(TOKENS)
    tree.wait_for_backup()
    tree.cache.reset()
    assert tree.prefetch(TOKENS) == len(TOKENS)


@pytest.mark.parametrize(
    ("class_name", "method"),
    [("WrongBytesBackend", "get"), ("PhantomBackend", "get"), ("HangBackend", "get"), ("HangBackend", "contains")],
)
def test_a_tree_over_a_bad_backend_computes(grow, guests, class_name, method):
    tree = grow(hostile(guests, class_name, **({"config.in": method} if class_name == "HangBackend" else {})))
    tree.insert(TOKENS)
    tree.wait_for_backup()
    tree.cache.reset()
    assert tree.prefetch(TOKENS) == 0
    tree.allocator.clear()
    tree.insert(TOKENS)
    assert tree.match(TOKENS).device_prefix_len == len(TOKENS)
