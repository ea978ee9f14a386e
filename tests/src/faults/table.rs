//! The rows.

use kvtier::BackendConfig;

use super::{After, Caller, Fault, Method};
use crate::support::misbehaving;

use Method::{Close, Constructor, Contains, Get, Open, Put};

/// Every fault.
pub fn table() -> Vec<Fault> {
    let mut rows = Vec::new();
    rows.extend(deaths());
    rows.extend(standstills());
    rows.extend(floods());
    rows.extend(lies());
    rows
}

/// Returns a row of the misbehaving component, whose class gets the method as a setting.
fn row(what: &'static str, method: Method, class: &'static str, caller: Caller, after: After) -> Fault {
    let backend = move |_: &_| misbehaving("faulty", class, &[("in", method.name())]);
    Fault { what, method, caller, after, keyed: false, backend: Box::new(backend) }
}

/// Returns the state of a backend whose instance ends in `method`.
fn ending(method: Method, how: &'static str) -> After {
    match method {
        Constructor | Open => After::Down(how),
        Close => After::Closed,
        _ => After::Replaced(how),
    }
}

/// The guest dies.
fn deaths() -> Vec<Fault> {
    let methods = || [Constructor, Open, Close].into_iter().chain(Method::SERVING);
    let mut rows = Vec::new();
    for (what, class, how) in [
        ("trap", "TrapBackend", "trapped: "),
        ("panic", "PanicBackend", "panicked on purpose in "),
        ("exit", "ExitBackend", "trapped: "),
        ("stack overflow", "OverflowBackend", "trapped: "),
    ] {
        rows.extend(
            methods().map(|method| row(what, method, class, Caller::Told("trap"), ending(method, how))),
        );
    }
    rows
}

/// The guest does not answer.
fn standstills() -> Vec<Fault> {
    let methods = || [Constructor, Open, Close].into_iter().chain(Method::SERVING);
    let mut rows = Vec::new();
    for (what, class) in [("endless loop", "SpinBackend"), ("sleep that blocks", "BlockBackend")] {
        for method in methods() {
            // A constructor or `open` is abandoned at its limit; the watchdog covers lanes once they are open.
            let how = if matches!(method, Constructor | Open) { "gave no answer" } else { "no progress" };
            rows.push(row(what, method, class, Caller::Expires, ending(method, how)));
        }
    }
    for method in methods().filter(|method| *method != Constructor) {
        let after = match method {
            Open => After::Down("gave no answer"),
            Close => After::Closed,
            _ => After::Serves,
        };
        rows.push(row("await forever", method, "HangBackend", Caller::Expires, after));
    }
    let hogs = After::Replaced("computed for");
    rows.push(row("endless loop after the answer", Get, "HogBackend", Caller::Served, hogs));
    rows.push(Fault {
        backend: Box::new(|times| {
            let ms = times.deadline.as_millis().to_string();
            misbehaving("faulty", "LateBackend", &[("in", "get"), ("ms", &ms)])
        }),
        ..row("an answer that is late but in time", Get, "LateBackend", Caller::Served, After::Serves)
    });
    rows
}

/// The guest takes more than its share.
fn floods() -> Vec<Fault> {
    let mut rows = vec![
        row("memory bomb", Put, "GreedyBackend", Caller::Told("no_space"), After::Serves),
        row("memory bomb", Get, "GreedyBackend", Caller::Told("no_space"), After::Serves),
        row("memory bomb", Open, "GreedyBackend", Caller::Told("no_space"), After::Down("no space left")),
    ];
    for method in [Contains, Put, Get] {
        let after = After::Replaced("limits.handles_max is reached");
        rows.push(row("handle leak", method, "LeakBackend", Caller::Told("trap"), after));
    }
    for method in [Contains, Get] {
        for (what, class) in [("random flood", "RandomFloodBackend"), ("stderr flood", "StderrFloodBackend")]
        {
            rows.push(row(what, method, class, Caller::Expires, After::Replaced("no progress")));
        }
        let flood = move |_: &_| {
            let lines = u64::MAX.to_string();
            misbehaving("faulty", "LogFloodBackend", &[("in", method.name()), ("lines", &lines)])
        };
        rows.push(Fault {
            backend: Box::new(flood),
            ..row("log flood", method, "", Caller::Expires, After::Replaced("no progress"))
        });
    }
    rows
}

/// The guest lies in its answer.
fn lies() -> Vec<Fault> {
    let lie = |what, method, class: &'static str, settings: &'static [(&str, &str)], kind| {
        let backend = move |_: &_| misbehaving("faulty", class, settings);
        Fault { backend: Box::new(backend), ..row(what, method, class, Caller::Told(kind), After::Serves) }
    };
    let mut rows: Vec<_> = [Contains, Put, Get, Method::Remove]
        .into_iter()
        .map(|method| row("error", method, "FailBackend", Caller::Told("other"), After::Serves))
        .collect();
    for (what, settings) in [
        ("a result too few", &[("results", "short")]),
        ("a result too many", &[("results", "long")]),
        ("no results", &[("results", "empty")]),
    ] {
        rows.push(lie(what, Get, "WrongCountBackend", settings, "bad_answer"));
        rows.push(lie(what, Put, "WrongCountBackend", settings, "bad_answer"));
    }
    rows.extend([
        lie("too many keys counted", Contains, "OverclaimBackend", &[], "bad_answer"),
        lie("a hit without writing", Get, "OverclaimBackend", &[], "wrong_length"),
        lie("a hit without a chunk", Get, "PhantomBackend", &[], "not_found"),
        lie("short write", Get, "ShortBackend", &[], "wrong_length"),
        lie("half written, all claimed", Get, "HalfBackend", &[], "wrong_length"),
        lie("write past the end", Get, "PastEndBackend", &[], "invalid_argument"),
        lie("garbage", Get, "GarbageBackend", &[], "no_trailer"),
        lie("bytes of another key", Get, "SwappedBackend", &[], "other_key"),
        lie("a flipped bit", Get, "WrongBytesBackend", &[], "check_failed"),
        Fault {
            keyed: true,
            ..lie("a flipped bit, checksum recomputed", Get, "ForgeBackend", &[], "check_failed")
        },
        Fault { caller: Caller::Served, ..lie("buffers kept after the call", Get, "KeepBackend", &[], "") },
        Fault { caller: Caller::Served, ..lie("two writers of one buffer", Get, "ReentrantWrites", &[], "") },
    ]);
    rows
}

/// A working backend of the same component.
pub(super) fn neighbour() -> BackendConfig {
    misbehaving("neighbour", "GoodBackend", &[])
}
