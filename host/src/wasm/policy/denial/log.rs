//! The denials of one instance, for the errors of its calls.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::{Denial, Denials, GuestText};
use crate::limits::{DENIALS_PER_ERROR_MAX, DENIED_TEXT_CHARS_MAX, ERROR_BYTES_MAX};
use crate::sync::lock;
use crate::text::escaped;
use crate::tier::TierError;
use crate::wasm::policy::Secrets;

/// Explains the errors of one instance's calls: has what it was refused, and the secrets to hide in their texts.
#[derive(Clone, Debug)]
pub(in crate::wasm) struct DenialLog(Arc<Recorded>);

#[derive(Debug)]
struct Recorded {
    denials: Arc<Denials>,
    secrets: Secrets,
    count: AtomicU64,
    /// The count at the last moment without a call inside.
    idle: AtomicU64,
    /// The different denials, the latest at the end, each with the count at which it was last seen.
    latest: Mutex<VecDeque<(u64, Denial)>>,
}

/// Why a guest asked for directories when it had none.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::wasm) enum Directories {
    /// It may have missed a file, so the grant is worth a word.
    Missed,
    /// The runtime of its language looked for what it can do without.
    AskedInVain,
}

/// A moment in an instance's life.
#[derive(Clone, Copy, Debug)]
pub(in crate::wasm) struct Mark(u64);

impl DenialLog {
    pub(in crate::wasm) fn new(denials: &Arc<Denials>, secrets: &Secrets) -> Self {
        Self(Arc::new(Recorded {
            denials: Arc::clone(denials),
            secrets: secrets.clone(),
            count: AtomicU64::new(0),
            idle: AtomicU64::new(0),
            latest: Mutex::default(),
        }))
    }

    pub(in crate::wasm) fn record(&self, denial: Denial) {
        self.0.denials.record(&denial);
        let mut latest = lock(&self.0.latest);
        let at = self.0.count.fetch_add(1, Ordering::Relaxed) + 1;
        latest.retain(|(_, known)| *known != denial);
        if latest.len() == DENIALS_PER_ERROR_MAX {
            latest.pop_front();
        }
        latest.push_back((at, denial));
    }

    /// Returns a mark of the moment at which a call enters the guest.
    pub(in crate::wasm) fn mark(&self) -> Mark {
        Mark(self.0.count.load(Ordering::Relaxed))
    }

    /// Records that no call is inside.
    pub(in crate::wasm) fn idle(&self) {
        self.0.idle.store(self.mark().0, Ordering::Relaxed);
    }

    /// Returns a text of the guest in the form in which it may be shown. Reads only the part that is shown.
    pub(in crate::wasm) fn guest_text(&self, text: &str) -> GuestText {
        // One character more, so that a cut shows. Each has at most four bytes.
        GuestText::new(&self.0.secrets.hide_beginning(text, 4 * (DENIED_TEXT_CHARS_MAX + 1)))
    }

    /// Returns the secrets.
    pub(in crate::wasm) fn secrets(&self) -> &Secrets {
        &self.0.secrets
    }

    /// Returns a call's error with the guest's text in the form in which it may be shown: without secrets, escaped and
    /// cut.
    pub(in crate::wasm) fn sanitize(&self, mut error: TierError) -> TierError {
        if let Some(text) = error.text_mut() {
            // In this order, because a secret is not recognised once it is escaped or cut.
            let hidden = self.0.secrets.hide_beginning(text, ERROR_BYTES_MAX);
            *text = escaped(&hidden, ERROR_BYTES_MAX);
        }
        error
    }

    /// As [`Self::sanitize`], with the denials since the call entered the guest.
    pub(in crate::wasm) fn explain(&self, mark: Mark, error: TierError) -> TierError {
        let mut error = self.sanitize(error);
        if let Some(text) = error.text_mut() {
            *text = self.with_note(mark, Directories::Missed, std::mem::take(text));
        }
        error
    }

    /// As [`Self::explain`], for the constructor and `open`: with the denials since the last moment without a call
    /// inside.
    pub(in crate::wasm) fn explain_start(&self, error: TierError) -> TierError {
        self.explain(self.idle_mark(), error)
    }

    /// As [`Self::explain_start`], for an end that all calls inside share. The cause is harmless already.
    pub(in crate::wasm) fn explain_end(&self, cause: String, directories: Directories) -> String {
        self.with_note(self.idle_mark(), directories, cause)
    }

    fn idle_mark(&self) -> Mark {
        Mark(self.0.idle.load(Ordering::Relaxed))
    }

    fn with_note(&self, mark: Mark, directories: Directories, text: String) -> String {
        match self.note_since(mark, directories) {
            Some(note) => format!("{text}; {note}"),
            None => text,
        }
    }

    /// Returns the denials since `mark`, and how to allow each; `None` if there are none. Calls that overlap in one
    /// instance cannot be distinguished: each gets all denials from the time that it was inside.
    fn note_since(&self, mark: Mark, directories: Directories) -> Option<String> {
        if self.mark().0 == mark.0 {
            return None;
        }
        let latest = lock(&self.0.latest);
        let is_told = |denial: &Denial| directories == Directories::Missed || *denial != Denial::NoDirectory;
        let since = latest.iter().filter(|(at, denial)| *at > mark.0 && is_told(denial));
        let texts =
            since.map(|(_, denial)| format!("{denial}; {}", denial.remedy(&self.0.denials.allow, "")));
        let note = texts.collect::<Vec<_>>().join("; denied: ");
        (!note.is_empty()).then(|| format!("denied: {note}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Grants;

    fn denial_log(denials: &Arc<Denials>) -> DenialLog {
        DenialLog::new(denials, &["hunter2"].into_iter().collect())
    }

    fn lookup(name: &str) -> Denial {
        Denial::Lookup(GuestText::new(name))
    }

    #[test]
    fn a_call_gets_the_denials_from_the_time_that_it_was_inside_and_no_others() {
        let denials = Denials::new("b", &Grants::default());
        let (this, other) = (denial_log(&denials), denial_log(&denials));
        this.record(Denial::Udp);
        let mark = this.mark();
        assert_eq!(this.note_since(mark, Directories::Missed), None);
        other.record(lookup("elsewhere"));
        assert_eq!(this.note_since(mark, Directories::Missed), None, "another instance's");
        this.record(lookup("a"));
        this.record(lookup("a"));
        insta::assert_snapshot!(this.note_since(mark, Directories::Missed).unwrap(), @r#"denied: resolving the name "a"; add allow.net: ["tcp://a:PORT"]"#);
        this.record(Denial::Udp);
        insta::assert_snapshot!(this.note_since(mark, Directories::Missed).unwrap(), @r#"denied: resolving the name "a"; add allow.net: ["tcp://a:PORT"]; denied: a UDP socket; no grant allows UDP"#);
        assert_eq!(denials.count(), 5);
        assert!(denials.last().unwrap().starts_with("a UDP socket"));
    }

    #[test]
    fn directories_that_were_asked_for_in_vain_hide_no_other_denial() {
        let denial_log = denial_log(&Denials::new("b", &Grants::default()));
        denial_log.record(Denial::NoDirectory);
        let end = |directories| denial_log.explain_end("dead".into(), directories);
        assert_eq!(end(Directories::AskedInVain), "dead");
        assert!(end(Directories::Missed).contains("allow.fs"));
        denial_log.record(Denial::Udp);
        assert_eq!(end(Directories::AskedInVain), "dead; denied: a UDP socket; no grant allows UDP");
    }

    #[test]
    fn an_error_has_the_denial_and_no_secrets() {
        let denial_log = denial_log(&Denials::new("b", &Grants::default()));
        let mark = denial_log.mark();
        let error = |denial_log: &DenialLog| {
            denial_log.explain(mark, TierError::Other("login hunter2".into())).to_string()
        };
        assert_eq!(error(&denial_log), "login [secret]");
        denial_log.record(Denial::Lookup(denial_log.guest_text("hunter2.example")));
        let note = "denied: resolving the name \"[secret].example\"; no grant allows it, because it is not a host name";
        assert_eq!(error(&denial_log), format!("login [secret]; {note}"));
        assert_eq!(denial_log.explain(mark, TierError::NoSpace), TierError::NoSpace);
        assert_eq!(denial_log.explain_end("dead".into(), Directories::Missed), format!("dead; {note}"));
        denial_log.idle();
        assert_eq!(denial_log.explain_end("dead".into(), Directories::Missed), "dead");
    }

    #[test]
    fn the_text_of_an_error_is_cleared_of_secrets_escaped_and_cut_in_this_order() {
        const PEM: &str = "-----BEGIN KEY-----\nMIIEvQIBADANBg\"\\kqhkiG9w0BAQ\n-----END KEY-----\n";
        let denial_log = DenialLog::new(&Denials::new("b", &Grants::default()), &[PEM].into_iter().collect());
        let said =
            |text: &str| denial_log.explain(denial_log.mark(), TierError::Other(text.into())).to_string();
        assert_eq!(said("a `b`\n\u{1b}[31m"), "a `b`\\n\\u{1b}[31m");
        assert_eq!(said(&"x".repeat(ERROR_BYTES_MAX)).len(), ERROR_BYTES_MAX);
        assert_eq!(said(&"x".repeat(ERROR_BYTES_MAX + 1)).len(), ERROR_BYTES_MAX);
        assert_eq!(said(&format!("key {PEM}\nrefused")), "key [secret]\\nrefused");
        // Across the cut, and beyond it.
        for before in ERROR_BYTES_MAX - 100..ERROR_BYTES_MAX + 100 {
            for key in [PEM, PEM.trim(), &format!("{PEM:?}")] {
                let note = said(&format!("{}{key}{}", "x".repeat(before), "y".repeat(1000)));
                assert!(note.trim_start_matches('x').len() < 110, "{note}");
                assert!(!note.contains("BEGIN") && !note.contains("MII"), "{note}");
            }
        }
    }

    #[test]
    fn a_flood_of_different_denials_is_counted_and_fills_no_memory() {
        let denials = Denials::new("b", &Grants::default());
        let denial_log = denial_log(&denials);
        let mark = denial_log.mark();
        for number in 0..10_000 {
            denial_log.record(lookup(&number.to_string()));
        }
        assert_eq!(denials.count(), 10_000);
        let last = denials.last().unwrap();
        denial_log.record(Denial::Udp);
        assert_eq!(lock(&denial_log.0.latest).len(), DENIALS_PER_ERROR_MAX);
        let note = denial_log.note_since(mark, Directories::Missed).unwrap();
        assert_eq!(note.matches("denied: ").count(), DENIALS_PER_ERROR_MAX);
        assert!(note.contains("\"9999\"") && last.contains("\"9999\""), "{note}");
    }
}
