"""kvtier's metrics in ``prometheus_client``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from kvtier._errors import ClosedError


class _Chain(Protocol):
    def metrics(self) -> str: ...


class KvtierCollector(Collector):
    """Collects the metrics of an ``Engine`` or ``Storage``: ``REGISTRY.register(KvtierCollector(engine))``.

    A closed engine has no metrics. ``docs/operation.md`` describes each metric.
    """

    def __init__(self, chain: _Chain) -> None:
        self._chain = chain

    def collect(self) -> Iterator[Metric]:
        """Returns the metrics as they are now."""
        try:
            text = self._chain.metrics()
        except ClosedError:
            return iter(())
        return iter(text_string_to_metric_families(text))
