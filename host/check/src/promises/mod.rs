//! The tests, one for each sentence, in groups. No test uses a key of another.

mod growth;
mod lists;
mod memory;
mod overlap;
mod pins;
mod protection;
mod removal;
mod results;
mod sizes;
mod start;

use crate::sentence::Sentence;

/// All sentences, in the order of their tests.
pub(crate) const ALL: &[&[Sentence]] = &[
    start::SENTENCES,
    results::SENTENCES,
    lists::SENTENCES,
    sizes::SENTENCES,
    removal::SENTENCES,
    pins::SENTENCES,
    memory::SENTENCES,
    protection::SENTENCES,
    start::RESTARTS,
    overlap::SENTENCES,
    growth::SENTENCES,
];
