"""What a chain reports to others: the collector for prometheus_client."""

import chains
import pytest
from chains import store_prompt

prometheus_client = pytest.importorskip("prometheus_client", reason="prometheus_client is not installed")


@pytest.fixture
def registry():
    return prometheus_client.CollectorRegistry()


def collector(chain):
    from kvtier.prometheus import KvtierCollector

    return KvtierCollector(chain)


def test_the_collector_has_the_metrics_of_a_chain(registry, engine, tmp_path):
    chain = engine({"disk": chains.disk(tmp_path)})
    registry.register(collector(chain))
    store_prompt(chain, range(64))
    chain.flush()
    chain.retrieve(range(64))
    cpu, disk = chain.counts()
    values = {
        (sample.name, sample.labels.get("tier")): sample.value
        for family in registry.collect()
        for sample in family.samples
        if len(sample.labels) == 1
    }
    hits = {tier: value for (name, tier), value in values.items() if "hits" in name}
    assert hits == {"cpu": cpu.hits, "disk": disk.hits} and cpu.hits == 4
    text = prometheus_client.generate_latest(registry).decode()
    assert 'tier="disk"' in text and "# HELP kvtier_" in text and "_bucket{" in text


def test_every_line_of_the_text_is_a_sample_of_the_collector(registry, storage):
    chain = storage({"good": chains.guest("GoodBackend"), "bad": chains.guest("FailBackend")})
    keys = chain.keys(["a"])
    chain.put_lent(keys, [b"x"]).stored()
    chain.fetch_into(keys, [bytearray(1)])
    chain.fetch_into(keys, [bytearray(1)], tiers="bad")
    registry.register(collector(chain))
    samples = {sample.name for family in registry.collect() for sample in family.samples}
    lines = {line.split("{")[0].split(" ")[0] for line in chain.metrics().splitlines() if line and line[0] != "#"}
    assert lines and lines == samples


def test_a_closed_chain_has_no_metrics(registry, storage):
    chain = storage({"good": chains.guest("GoodBackend")})
    registry.register(collector(chain))
    assert list(registry.collect())
    chain.close()
    assert list(registry.collect()) == []
    # One that is closed already can be registered.
    prometheus_client.CollectorRegistry().register(collector(chain))
