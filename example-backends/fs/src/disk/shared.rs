//! Messages between the processes that share the directory, by files alone.
//!
//! A chunk is leased if its file was modified in the future: the owner of the capacity does not evict it until then.
//! Other instances lease what they have found, so that it is still there when it is fetched. They note in `new/` what
//! they store and remove, so that the owner can count it.

use kvtier_guest::futures_util::{StreamExt, stream};
use kvtier_guest::wasip3::clocks::system_clock::Instant;
use kvtier_guest::wasip3::filesystem::types::ErrorCode;
use kvtier_guest::{ChunkKey, Level};

use super::{Disk, Found, STATS_AT_ONCE, names, now_ns};

const NS_PER_S: i64 = 1_000_000_000;

/// The time for which a chunk stays.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lease {
    /// Until it is fetched: 10 s.
    Found,
    /// Until it is unpinned: 10 minutes, twice as long as the host holds pins by default.
    Pinned,
    /// No longer.
    Ended,
}

impl Lease {
    fn length_ns(self) -> i64 {
        match self {
            Self::Found => 10 * NS_PER_S,
            Self::Pinned => 600 * NS_PER_S,
            Self::Ended => 0,
        }
    }
}

impl Found {
    pub(crate) fn is_leased(&self, now_ns: i64) -> bool {
        self.lease_left_ns(now_ns) > 0
    }

    /// Returns how long the chunk's lease lasts. A file that was modified later than any lease ends has none: a clock
    /// was wrong, and what it stored would stay for ever.
    fn lease_left_ns(&self, now_ns: i64) -> i64 {
        let left_ns = self.modified_ns.saturating_sub(now_ns);
        // Clocks of machines that share a directory are not quite the same.
        if left_ns > 2 * Lease::Pinned.length_ns() { 0 } else { left_ns.max(0) }
    }
}

impl Disk {
    /// Leases chunks, unless most of such a lease is left.
    pub(crate) async fn lease(&self, chunks: &[(ChunkKey, Found)], lease: Lease) {
        let now_ns = now_ns();
        let until_ns = now_ns + lease.length_ns();
        let is_due = |found: &Found| match lease {
            Lease::Ended => found.is_leased(now_ns),
            lease => found.lease_left_ns(now_ns) < lease.length_ns() / 2,
        };
        let due = chunks.iter().filter(|(_, found)| is_due(found));
        let set = stream::iter(due).map(async |(key, _)| {
            let at = Instant {
                seconds: until_ns / NS_PER_S,
                nanoseconds: u32::try_from(until_ns % NS_PER_S).unwrap_or_default(),
            };
            match self.granted.set_modified(self.file_of(*key), at).await {
                Ok(()) | Err(ErrorCode::NoEntry) => {}
                Err(code) => {
                    let name = &self.name;
                    let message = format_args!(
                        "{name}: chunks that were found are not protected from eviction: {code:?}"
                    );
                    self.unleased.log(Level::Warn, message);
                }
            }
        });
        set.buffer_unordered(STATS_AT_ONCE).collect::<Vec<()>>().await;
    }

    /// Returns those of the chunks that are leased.
    pub(crate) async fn leased(&self, keys: &[ChunkKey]) -> Vec<ChunkKey> {
        let now_ns = now_ns();
        let stats = self.stats(keys).await;
        let is_leased =
            |stat: &Result<Option<Found>, _>| matches!(stat, Ok(Some(found)) if found.is_leased(now_ns));
        keys.iter().zip(&stats).filter(|(_, stat)| is_leased(stat)).map(|(key, _)| *key).collect()
    }

    /// Asks the owner of the capacity to look after chunks.
    pub(crate) async fn tell_owner(&self, keys: &[ChunkKey]) {
        let tell = stream::iter(keys).map(async |key| {
            let path = self.path(&format!("{}/{key}", names::NOTES));
            let mut told = self.granted.create(path.clone()).await;
            if matches!(told, Err(ErrorCode::NoEntry)) {
                let directory = self.path(names::NOTES);
                told = match self.granted.make_directory(directory).await {
                    Ok(()) | Err(ErrorCode::Exist) => self.granted.create(path).await,
                    refused => refused,
                };
            }
            if let Err(code) = told {
                let name = &self.name;
                let message =
                    format_args!("{name}: a chunk is not counted against the capacity yet: {code:?}");
                self.unleased.log(Level::Warn, message);
            }
        });
        tell.buffer_unordered(STATS_AT_ONCE).collect::<Vec<()>>().await;
    }

    /// Takes a note away, before what it is about is looked at.
    pub(crate) async fn take_note(&self, key: ChunkKey) -> Result<(), kvtier_guest::Error> {
        self.unlink(self.path(&format!("{}/{key}", names::NOTES))).await.map(drop)
    }
}
