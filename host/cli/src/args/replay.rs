//! The arguments of `kvtier replay`.

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use kvtier::EvictionPolicy;

use crate::presets::Preset;

/// `kvtier replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// Trace: one JSON object per line with timestamp, input_length, output_length and hash_ids. `-` reads the standard
    /// input.
    #[arg(value_name = "TRACE", required_unless_present = "trace_option")]
    trace: Option<PathBuf>,

    /// Another spelling of the trace.
    #[arg(long = "trace", id = "trace_option", value_name = "FILE", hide = true, conflicts_with = "trace")]
    trace_option: Option<PathBuf>,

    /// Configuration in LMCache's form (YAML). Without it: the file that LMCACHE_CONFIG_FILE names, or the variables
    /// LMCACHE_* alone, by default a CPU tier without backends. A replay always waits when a queue is full, and stops
    /// if a backend cannot be loaded.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Payload of a chunk, in bytes.
    #[arg(long, value_name = "N", default_value_t = NonZeroU64::new(4096).expect("4096 is not 0"), conflicts_with = "model")]
    pub chunk_bytes: NonZeroU64,

    /// Use the chunk size of a model instead, at the configured chunk_size.
    #[arg(long, value_name = "MODEL", ignore_case = true)]
    pub model: Option<Preset>,

    /// Capacity of the CPU tier in chunks, instead of max_local_cpu_size.
    #[arg(long, value_name = "N")]
    pub capacity_chunks: Option<NonZeroU64>,

    /// Eviction policy of the CPU tier, instead of the configured one.
    #[arg(long, value_name = "NAME", ignore_case = true, value_parser = policies())]
    pub policy: Option<EvictionPolicy>,

    /// Replay only the first N requests.
    #[arg(long, value_name = "N")]
    pub requests: Option<NonZeroU64>,

    /// End with exit code 3 also if a backend timed out or could not serve.
    ///
    /// Without it, only if a backend broke the contract or trapped.
    #[arg(long)]
    pub strict: bool,

    /// Print one JSON object instead of tables, and show no progress bar.
    #[arg(long)]
    pub json: bool,

    /// Write a report: one self-contained HTML file.
    #[arg(long, value_name = "FILE.html")]
    pub report: Option<PathBuf>,

    /// Whether the command was told to show no progress. Set from [`super::Verbosity`].
    #[arg(skip)]
    pub is_quiet: bool,
}

impl ReplayArgs {
    /// Returns the path of the trace, [`super::STANDARD_INPUT`] for the standard input.
    pub fn trace(&self) -> &Path {
        self.trace.as_deref().or(self.trace_option.as_deref()).unwrap_or(Path::new(super::STANDARD_INPUT))
    }
}

/// Parses the names that the configuration has, in any case.
fn policies() -> impl TypedValueParser<Value = EvictionPolicy> {
    let value = |policy: &EvictionPolicy| PossibleValue::new(policy.name()).help(policy.description());
    PossibleValuesParser::new(EvictionPolicy::ALL.iter().map(value))
        .try_map(|name| name.parse::<EvictionPolicy>())
}
