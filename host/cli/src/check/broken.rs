//! The judgement of a check.

use std::fmt;

use kvtier_check::Report;

/// A backend breaks the contract. The report of the check is valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokenContract {
    class_name: String,
    sentences: Vec<&'static str>,
}

impl BrokenContract {
    /// Judges the backend; `None` if it keeps what was tried.
    pub fn find(report: &Report) -> Option<Self> {
        let sentences: Vec<_> = report.broken().map(|(sentence, _)| sentence.id).collect();
        if sentences.is_empty() {
            None
        } else {
            Some(Self { class_name: report.class_name.clone(), sentences })
        }
    }
}

impl fmt::Display for BrokenContract {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (n, s) = (self.sentences.len(), if self.sentences.len() == 1 { "" } else { "s" });
        write!(
            f,
            "`{}` breaks {n} sentence{s} of the contract: {}",
            self.class_name,
            self.sentences.join(", ")
        )
    }
}

impl std::error::Error for BrokenContract {}
