//! The arguments of `kvtier check` and `kvtier dev`.

use std::path::PathBuf;

use clap::Args;

/// The class that a command checks.
#[derive(Debug, Args)]
pub struct SubjectArgs {
    /// The component.
    // Required, unless an argument that conflicts with it is given.
    #[arg(value_name = "COMPONENT", required = true)]
    pub component: Option<PathBuf>,

    /// The class. May be left out where the component exports one class only.
    #[arg(value_name = "CLASS", requires = "component")]
    pub class: Option<String>,

    /// Take the backend from a configuration in LMCache's form (YAML), with its settings, grants and limits.
    ///
    /// Chunks are put into its store, under keys that no serving engine has, and a store with a capacity is filled, so
    /// that it evicts: name a directory or a server for the check alone.
    #[arg(long, value_name = "FILE", conflicts_with = "component")]
    pub config: Option<PathBuf>,

    /// The backend of the configuration, if it has several.
    #[arg(long, value_name = "NAME", requires = "config", conflicts_with = "component")]
    pub backend: Option<String>,

    /// Give the backend a setting, a grant or a limit, by its key in a configuration. May be repeated.
    ///
    /// For instance: --set config.capacity=1MiB --set config.root=/data --set allow.fs=DIR:/data:rw
    #[arg(long, value_name = "KEY=VALUE", conflicts_with = "config", value_parser = key_and_value)]
    pub set: Vec<(String, String)>,

    /// How many seconds a call may take, and an instance may stand still, if its limits do not allow more.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub patience: u64,
}

/// `kvtier check`.
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
#[derive(Debug, Args)]
#[command(
    override_usage = "kvtier check [OPTIONS] <COMPONENT> [CLASS]\n       kvtier check [OPTIONS] --config <FILE>\n       kvtier check --list"
)]
pub struct CheckArgs {
    /// The class.
    #[command(flatten)]
    pub subject: SubjectArgs,

    /// Check results, order, sizes up to 3 MiB, eviction, restarts and memory near its limit only.
    ///
    /// Without it also calls that overlap or are given up, deaths within a put, leaks, and speed: minutes instead of
    /// seconds.
    #[arg(long)]
    pub quick: bool,

    /// Check this sentence only, and those that it needs. May be repeated.
    #[arg(long, value_name = "SENTENCE", conflicts_with = "quick")]
    pub only: Vec<String>,

    /// Draw the keys from this number, such as the seed of an earlier report, instead of at random.
    ///
    /// A sentence has the same keys whatever else is checked. A store that still has chunks of them gives wrong
    /// results.
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,

    /// List the sentences, and check nothing.
    #[arg(long, conflicts_with_all = ["component", "config"])]
    pub list: bool,

    /// Print one JSON object instead of text, and show no progress bar.
    #[arg(long)]
    pub json: bool,

    /// Write a report: one self-contained HTML file.
    #[arg(long, value_name = "FILE.html", conflicts_with = "list")]
    pub report: Option<PathBuf>,

    /// Whether the command was told to show no progress. Set from [`super::Verbosity`].
    #[arg(skip)]
    pub is_quiet: bool,
}

/// `kvtier dev`.
#[derive(Debug, Args)]
#[command(
    override_usage = "kvtier dev [OPTIONS] <COMPONENT> [CLASS]\n       kvtier dev [OPTIONS] --config <FILE>"
)]
pub struct DevArgs {
    /// The class.
    #[command(flatten)]
    pub subject: SubjectArgs,
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
    let (key, value) = pair.ok_or("expected KEY=VALUE, such as config.capacity=1MiB")?;
    Ok((key.to_owned(), value.to_owned()))
}
