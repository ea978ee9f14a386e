//! Status and counts, as the dataclasses of `kvtier/_types.py`.

use kvtier::{BackendStatus, BreakerState, BreakerStatus, CpuStats, Status, TierCounts};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyType};

/// Returns a class of `kvtier/_types.py`.
pub(crate) fn class<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyType>> {
    Ok(py.import("kvtier._types")?.getattr(name)?.cast_into()?)
}

/// Returns another form of a chain's operations, from `kvtier/_views.py`.
pub(crate) fn view<'py>(chain: &Bound<'py, PyAny>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    chain.py().import("kvtier._views")?.getattr(name)?.call1((chain,))
}

/// Makes a dataclass from pairs of a field and its value.
macro_rules! make {
    ($py:expr, $class:literal { $($field:ident: $value:expr),* $(,)? }) => {{
        let fields = PyDict::new($py);
        $(fields.set_item(stringify!($field), $value)?;)*
        class($py, $class)?.call((), Some(&fields))
    }};
}

pub(crate) fn status<'py>(py: Python<'py>, status: &Status) -> PyResult<Bound<'py, PyAny>> {
    let backends = status.backends.iter().map(|backend| backend_status(py, backend));
    make!(py, "Status" {
        hot_cache: status.hot_cache,
        cpu: cpu_status(py, &status.cpu)?,
        lookups_pinned: status.lookups_pinned,
        backends: PyList::new(py, backends.collect::<PyResult<Vec<_>>>()?)?,
    })
}

fn cpu_status<'py>(py: Python<'py>, cpu: &CpuStats) -> PyResult<Bound<'py, PyAny>> {
    make!(py, "CpuStatus" {
        entries: cpu.entries,
        entry_bytes: cpu.entry_bytes,
        pinned_entries: cpu.pinned_entries,
        allocated_bytes: cpu.allocated_bytes,
        capacity_bytes: cpu.capacity_bytes,
        evictions: cpu.evictions.pressure,
        evict_failures: cpu.evict_failures,
    })
}

fn backend_status<'py>(py: Python<'py>, backend: &BackendStatus) -> PyResult<Bound<'py, PyAny>> {
    make!(py, "BackendStatus" {
        name: &backend.name,
        is_up: backend.health.down.is_none(),
        down: backend.health.down.as_ref().map(ToString::to_string),
        bypassed: backend.bypassed,
        puts_pending: backend.puts_pending,
        put_bytes_pending: backend.put_bytes_pending,
        pinned_keys: backend.pinned_keys,
        removals_owed: backend.removals_owed,
        reading: breaker_status(py, &backend.reading)?,
        writing: breaker_status(py, &backend.writing)?,
        lane_restarts: backend.health.lane_restarts,
        guest_memory_bytes: backend.health.guest_memory_bytes,
        host_memory_bytes: backend.health.host_memory_bytes,
    })
}

fn breaker_status<'py>(py: Python<'py>, breaker: &BreakerStatus) -> PyResult<Bound<'py, PyAny>> {
    let state = match breaker.state {
        BreakerState::Closed => "closed",
        BreakerState::Open => "open",
        BreakerState::HalfOpen => "half-open",
        _ => "unknown",
    };
    make!(py, "BreakerStatus" {
        state: state,
        since_s: breaker.since.as_secs_f64(),
        failures: breaker.failures,
        last_cause: breaker.last_cause.as_deref(),
        retry_in_s: breaker.retry_in.map(|time| time.as_secs_f64()),
        opened: breaker.opened,
    })
}

pub(crate) fn counts<'py>(py: Python<'py>, counts: &[TierCounts]) -> PyResult<Bound<'py, PyList>> {
    let tiers = counts.iter().map(|tier| {
        let errors = PyDict::new(py);
        for error in &tier.errors {
            errors.set_item((error.operation.name(), error.kind), error.n)?;
        }
        let latency = PyDict::new(py);
        for calls in &tier.latency {
            let one = make!(py, "Latency" {
                n: calls.latency.n,
                total_s: calls.latency.total.as_secs_f64(),
                buckets: calls
                    .latency
                    .buckets
                    .iter()
                    .map(|bucket| (bucket.upper_ns as f64 / 1e9, bucket.n))
                    .collect::<Vec<_>>(),
            })?;
            latency.set_item(calls.operation.name(), one)?;
        }
        make!(py, "TierCounts" {
            name: &tier.name,
            hits: tier.hits,
            bytes_read: tier.bytes_read,
            bytes_written: tier.bytes_written,
            puts: tier.puts,
            misses: &tier.misses,
            errors: errors,
            drops: &tier.drops,
            evictions: tier.evictions,
            lane_restarts: tier.lane_restarts,
            guest_memory_bytes: tier.guest_memory_bytes,
            host_memory_bytes: tier.host_memory_bytes,
            pins_expired: tier.pins_expired,
            shared: tier.shared,
            is_up: tier.is_up,
            latency: latency,
        })
    });
    PyList::new(py, tiers.collect::<PyResult<Vec<_>>>()?)
}
