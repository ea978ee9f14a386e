//! Work behind the calls: owning the capacity, scanning the directory, and reading the notes of others.

use std::rc::Rc;
use std::time::Duration;

use kvtier_guest::futures_util::{StreamExt, stream};
use kvtier_guest::wasip3::clocks::monotonic_clock;
use kvtier_guest::{ChunkKey, Error, Level, Ownership, info, warn};

use super::{Role, Store};
use crate::disk::{STATS_AT_ONCE, now_ns};

/// The pause between two turns.
const TURN: Duration = Duration::from_secs(2);
/// Turns between two removals of unfinished files: an hour.
const TURNS_PER_CLEANING: u64 = 1800;

/// Counts of the scan.
#[derive(Default)]
struct Counts {
    n_chunks: u64,
    n_bytes: u64,
    n_outside: u64,
    outside_bytes: u64,
}

impl Store {
    /// Takes its turns until the store is closed.
    pub(crate) async fn look_after(self: Rc<Self>) {
        for turn in 0.. {
            if let Err(error) = self.take_turn(turn).await {
                let message =
                    format_args!("{}: the directory cannot be scanned: {error:?}", self.disk.name());
                self.reports.failed.log(Level::Warn, message);
            }
            monotonic_clock::wait_for(TURN.as_nanos() as u64).await;
            if self.is_closed.get() {
                break;
            }
        }
    }

    async fn take_turn(&self, turn: u64) -> Result<(), Error> {
        if turn > 0 {
            self.mend().await;
            self.ask_for_capacity().await;
        }
        if !self.owns() {
            return Ok(());
        }
        if !self.is_scanned.get() {
            return self.scan().await;
        }
        if turn % TURNS_PER_CLEANING == TURNS_PER_CLEANING - 1 {
            self.disk.clean().await?;
        }
        self.hear().await
    }

    /// Asks to be the one that keeps the directory to its capacity; another may have ended.
    pub(super) async fn ask_for_capacity(&self) {
        let before = self.role.get();
        let role = match self.disk.keep_capacity().await {
            Ok(Ownership::This) => Role::Owner,
            Ok(Ownership::Another(_)) => Role::Guest,
            Ok(Ownership::ReadOnly) => Role::Reader,
            // As if no other instance existed.
            Err(Error::Unsupported) => {
                if before != Role::Owner {
                    warn!(
                        "{}: the file system has no locks; no other process may use the directory",
                        self.disk.name()
                    );
                }
                Role::Owner
            }
            Err(error) => {
                let message = format_args!("cannot ask for the capacity: {error:?}");
                self.reports.failed.log(Level::Warn, message);
                before
            }
        };
        if role == before {
            return;
        }
        self.role.set(role);
        self.forget_all();
        if role == Role::Owner {
            info!("{}: this instance keeps the directory to its capacity", self.disk.name());
        }
    }

    /// Makes the directories again if they were removed.
    pub(super) async fn mend(&self) {
        if self.role.get() == Role::Reader || !matches!(self.disk.is_prepared().await, Ok(false)) {
            return;
        }
        let made = self.disk.prepare().await;
        let name = self.disk.name();
        match made {
            Ok(()) => {
                self.forget_all();
                let message =
                    format_args!("{name}: the directory was emptied and stays in use, without its chunks");
                self.reports.emptied.log(Level::Warn, message);
            }
            Err(error) => {
                let message =
                    format_args!("{name}: the directory was removed and cannot be made again: {error:?}");
                self.reports.emptied.log(Level::Warn, message);
            }
        }
    }

    /// Forgets everything that is there; the scan begins again.
    fn forget_all(&self) {
        self.is_scanned.set(false);
        self.n_resets.set(self.n_resets.get() + 1);
        self.index.borrow_mut().clear();
        self.outside_bytes.set(0);
    }

    /// Scans all files: counts them, orders them by age, and evicts those beyond the capacity. Waits as long as it
    /// works, so that calls have the thread, and the disk, for at least half of the time.
    async fn scan(&self) -> Result<(), Error> {
        let n_unfinished = match self.disk.clean().await {
            Ok(n) => n,
            Err(error) => {
                // What cannot be cleaned can still be read.
                warn!("unfinished files stay: {error:?}");
                0
            }
        };
        let mut counts = Counts::default();
        let n_resets = self.n_resets.get();
        let mut scan = self.disk.scan().await?;
        loop {
            let began = monotonic_clock::now();
            let Some(keys) = scan.next().await? else { break };
            let mut found = stream::iter(keys).map(|key| self.find(key)).buffer_unordered(STATS_AT_ONCE);
            while let Some(found) = found.next().await {
                if let Some((size_bytes, is_inside)) = found? {
                    counts.n_chunks += 1;
                    counts.n_bytes += size_bytes;
                    if !is_inside {
                        counts.n_outside += 1;
                        counts.outside_bytes += size_bytes;
                    }
                }
            }
            monotonic_clock::wait_for(monotonic_clock::now().saturating_sub(began).max(1)).await;
            if self.is_closed.get() || self.n_resets.get() != n_resets {
                return Ok(());
            }
        }
        self.set_outside_bytes(self.outside_bytes.get().saturating_add(counts.outside_bytes));
        let n_evicted = match self.evict_surplus().await {
            Ok(n_evicted) => n_evicted,
            Err(error) => {
                // Chunks beyond the capacity can still be read.
                warn!("chunks beyond the capacity stay: {error:?}");
                0
            }
        };
        self.is_scanned.set(self.n_resets.get() == n_resets);
        let Counts { n_chunks, n_bytes, n_outside, .. } = counts;
        if n_outside > 0 {
            self.report_full(n_outside);
        }
        info!(
            "scan: {n_chunks} chunks, {n_bytes} bytes found, {n_evicted} evicted, \
             {n_unfinished} unfinished files removed"
        );
        Ok(())
    }

    /// Counts a chunk that the scan has come upon, unless it is known. Returns its size, and whether the index had
    /// room.
    async fn find(&self, key: ChunkKey) -> Result<Option<(u64, bool)>, Error> {
        let _guard = self.locks.look(key).await;
        if self.index.borrow().get(&key).is_some() {
            return Ok(None);
        }
        let Some(found) = self.disk.stat(key).await? else { return Ok(None) };
        let age_ns = now_ns().saturating_sub(found.modified_ns);
        let age = Duration::from_nanos(u64::try_from(age_ns).unwrap_or(0));
        let taken = self.index.borrow_mut().adopt_found(key, found.size_bytes, age, ());
        Ok(Some((found.size_bytes, taken.is_ok())))
    }

    /// Reads the notes about chunks that others have stored and removed.
    async fn hear(&self) -> Result<(), Error> {
        let Some(mut notes) = self.disk.notes().await? else { return Ok(()) };
        loop {
            let began = monotonic_clock::now();
            let Some(keys) = notes.next().await? else { break };
            let heard = stream::iter(keys).map(async |key| {
                // In this order: what happens after the look is noted anew.
                let taken = self.disk.take_note(key).await;
                self.know(key).await;
                taken
            });
            let mut heard = heard.buffer_unordered(STATS_AT_ONCE);
            while let Some(taken) = heard.next().await {
                taken?;
            }
            monotonic_clock::wait_for(monotonic_clock::now().saturating_sub(began).max(1)).await;
        }
        self.evict_surplus().await.map(drop)
    }
}
