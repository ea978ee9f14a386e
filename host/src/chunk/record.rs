//! Records: what is kept beside a chunk's bytes.
//!
//! Records are type-stable: their memory is recycled for other records and for nothing else. So an
//! index can be searched without a lock. A searcher that comes late finds a record that no index has,
//! or one with another key, never memory that has become something else.
//!
//! Invariant: the content is written by the maker of the first reader, before there is a second, and
//! taken by whoever ends the chunk's [`Life`]; in between it is only read.
#![expect(unsafe_code, reason = "content is shared by a count that the type system does not see")]

use std::cell::{RefCell, UnsafeCell};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::Content;
use super::home::HomeId;
use super::life::{Life, Released};
use crate::key::ChunkKey;
use crate::memory::{BufferMut, Provider};
use crate::sync::lock;

/// Names a record, and with it the chunk that an index keeps in it.
pub(crate) type Slot = u32;
/// No slot.
pub(crate) const NO_SLOT: Slot = u32::MAX;

/// One chunk's record: all that a search, a reader's coming and going, and the order of eviction look at,
/// in one line of the cache.
#[repr(align(64))]
pub(crate) struct Record {
    life: Life,
    key_hi: AtomicU64,
    key_lo: AtomicU64,
    content: &'static ContentCell,
    slot: Slot,
    /// The index that has the chunk; 0 if none has, or is leaving or entering.
    home: AtomicU32,
    /// For the index alone.
    pub(crate) standing: Standing,
}

/// Where a record's content lies.
struct ContentCell(UnsafeCell<Option<Content>>);

const _: () = assert!(size_of::<Record>() == 64 && size_of::<ContentCell>() == 48);

/// What an index notes of a chunk that it has: pins, and the place in the order of eviction. Only read
/// and written under that index's lock, but for [`mark`](Self::mark).
#[derive(Default)]
pub(crate) struct Standing {
    /// When the chunk was placed.
    pub(crate) time: AtomicU64,
    /// Neighbours in a list.
    pub(crate) previous: AtomicU32,
    pub(crate) next: AtomicU32,
    pub(crate) n_pins: AtomicU32,
    /// The list that the chunk is in.
    group: AtomicU32,
}

/// Bits of `group` that are not the group's number.
const PLACE_BITS: u32 = 4;
const MARK_SHIFT: u32 = PLACE_BITS;
const MARK_MASK: u32 = 0b11 << MARK_SHIFT;
const GROUP_SHIFT: u32 = 8;

impl Standing {
    /// Groups are numbered below this.
    pub(crate) const GROUPS_MAX: u32 = 1 << (32 - GROUP_SHIFT);

    pub(crate) fn group(&self) -> u32 {
        self.group.load(Ordering::Relaxed) >> GROUP_SHIFT
    }

    pub(crate) fn set_group(&self, group: u32) {
        self.change(u32::MAX << GROUP_SHIFT, group << GROUP_SHIFT);
    }

    /// A small number that stands for the place among the order's structures.
    pub(crate) fn place(&self) -> u32 {
        self.group.load(Ordering::Relaxed) & ((1 << PLACE_BITS) - 1)
    }

    pub(crate) fn set_place(&self, place: u32) {
        self.change((1 << PLACE_BITS) - 1, place);
    }

    /// How often the chunk was used since the policy last looked, up to 3.
    pub(crate) fn marks(&self) -> u32 {
        (self.group.load(Ordering::Relaxed) & MARK_MASK) >> MARK_SHIFT
    }

    pub(crate) fn set_marks(&self, n_marks: u32) {
        self.change(MARK_MASK, n_marks << MARK_SHIFT);
    }

    /// Counts a use, without a lock.
    pub(crate) fn mark(&self) {
        let add = |bits: u32| (bits & MARK_MASK != MARK_MASK).then(|| bits + (1 << MARK_SHIFT));
        // Chunks in much use are at the maximum, and are not written to.
        let _at_maximum = self.group.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_err();
    }

    fn change(&self, mask: u32, bits: u32) {
        let set = |old: u32| Some(old & !mask | bits & mask);
        let _always = self.group.fetch_update(Ordering::Relaxed, Ordering::Relaxed, set).is_ok();
    }
}

// SAFETY: a content is shared for reading while the state of its record counts a reader or an index, and
// moved by one thread before and after (see the module's invariant); it is Send and Sync itself.
unsafe impl Sync for ContentCell {}

impl Record {
    fn new(slot: Slot, content: &'static ContentCell) -> Self {
        Self {
            life: Life::new(),
            key_hi: AtomicU64::new(0),
            key_lo: AtomicU64::new(0),
            content,
            slot,
            home: AtomicU32::new(0),
            standing: Standing::default(),
        }
    }

    /// Takes a free record for a chunk. The caller is its one reader.
    pub(super) fn open(key: ChunkKey, content: Content) -> &'static Self {
        let record = take_free();
        record.life.begin();
        record.key_hi.store(key.hi, Ordering::Relaxed);
        record.key_lo.store(key.lo, Ordering::Relaxed);
        // SAFETY: the record was free, and only this thread has it: no reader and no index has.
        unsafe { *record.content.0.get() = Some(content) };
        record.life.first_reader();
        record
    }

    /// Returns the chunk's content.
    ///
    /// # Safety
    /// The caller holds the record: as a reader, or as the index that has it, under that index's lock.
    #[inline]
    pub(super) unsafe fn content(&self) -> &Content {
        // SAFETY: while the record is held nobody writes the content.
        match unsafe { &*self.content.0.get() } {
            Some(content) => content,
            None => unreachable!("a record that is held has its content"),
        }
    }

    pub(crate) fn slot(&self) -> Slot {
        self.slot
    }

    /// Returns the chunk's key, if the caller holds the record; else some chunk's key.
    #[inline]
    pub(crate) fn key(&self) -> ChunkKey {
        ChunkKey { hi: self.key_hi.load(Ordering::Relaxed), lo: self.key_lo.load(Ordering::Relaxed) }
    }

    /// Returns for which of its chunks the record serves; see [`Life::generation`].
    #[inline]
    pub(crate) fn generation(&self) -> u32 {
        self.life.generation()
    }

    #[inline]
    fn is_named(&self, key: ChunkKey, home: HomeId) -> bool {
        self.key() == key && self.home.load(Ordering::Relaxed) == home.0
    }

    /// Says whether the index `home` has the record now, for the chunk `key`. Needs no lock.
    #[inline]
    pub(crate) fn is_indexed_as(&self, key: ChunkKey, home: HomeId) -> bool {
        let Some(look) = self.life.look() else { return false };
        self.is_named(key, home) && self.life.is_still(look)
    }

    /// Becomes a reader of the chunk `key`, if the index `home` has it in this record. Needs no lock.
    #[inline]
    pub(super) fn acquire(&'static self, key: ChunkKey, home: HomeId) -> bool {
        if !self.life.acquire() {
            return false;
        }
        if self.is_named(key, home) {
            return true;
        }
        // The record went to another chunk since it was found.
        self.release();
        false
    }

    /// Adds a reader to those that there are.
    #[inline]
    pub(super) fn share(&self) {
        self.life.share();
    }

    /// Takes a reader away, and does what follows from it. The record may be another chunk's then.
    #[inline]
    pub(super) fn release(&'static self) {
        match self.life.release() {
            Released::Held => {}
            Released::Over => self.recycle(),
            // If an index has taken the record meanwhile it needs no telling, and another is told in vain.
            Released::Watched => HomeId(self.home.load(Ordering::Relaxed)).tell(self.slot),
        }
    }

    /// Notes that the index `home` has the record, unless one has it already. The caller is a reader.
    pub(super) fn enter(&self, home: HomeId) -> bool {
        let is_new = self.life.enter();
        if is_new {
            self.home.store(home.0, Ordering::Relaxed);
        }
        is_new
    }

    /// Takes the record out of its index if nobody reads it: from then on nobody can.
    pub(crate) fn leave_if_unread(&'static self) -> Option<Left> {
        let has_left = self.life.leave_if_unread();
        has_left.then(|| {
            self.home.store(0, Ordering::Relaxed);
            Left(Some(self))
        })
    }

    /// Takes the record out of its index. Its readers keep it.
    pub(crate) fn leave(&'static self) -> Left {
        // First: afterwards another index may enter itself.
        self.home.store(0, Ordering::Relaxed);
        Left(self.life.leave().then_some(self))
    }

    /// Asks for the index to be told when the last reader goes; false if there is none, and nobody will
    /// be told.
    pub(crate) fn watch(&self) -> bool {
        self.life.watch()
    }

    pub(crate) fn unwatch(&self) {
        self.life.unwatch();
    }

    /// Returns how many readers there are.
    #[cfg(test)]
    pub(crate) fn n_readers(&self) -> usize {
        self.life.n_readers()
    }

    /// Says whether the index `home` has the record, at this moment.
    pub(crate) fn is_in(&self, home: HomeId) -> bool {
        self.life.is_indexed() && self.home.load(Ordering::Relaxed) == home.0
    }

    /// Gives the memory back, and then the record. The caller has ended its life.
    fn recycle(&'static self) {
        // SAFETY: there is no reader and no index any more, and none can come: both need one that is there.
        let content = unsafe { (*self.content.0.get()).take() };
        drop(content);
        put_free(self);
    }
}

/// A chunk that has left its index. If nobody reads it, dropping this gives its memory back, which may
/// run anybody's code: not under a lock.
#[must_use]
pub(crate) struct Left(Option<&'static Record>);

impl Left {
    /// Returns the chunk's buffer for another chunk, if nobody reads it and it has `size_bytes` of `provider`.
    pub(crate) fn into_buffer(
        mut self,
        provider: &Arc<dyn Provider>,
        size_bytes: usize,
    ) -> Option<BufferMut> {
        let record = self.0?;
        // SAFETY: there is no reader and no index any more, and none can come: both need one that is there.
        let content = unsafe { &mut *record.content.0.get() };
        let content = content
            .take_if(|content| content.buffer.len() == size_bytes && content.buffer.is_of(provider))?;
        self.0 = None;
        put_free(record);
        Some(content.buffer)
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        if let Some(record) = self.0 {
            record.recycle();
        }
    }
}

/// Records of one segment.
const SEGMENT: usize = if cfg!(miri) { 64 } else { 4096 };
const SEGMENTS_MAX: usize = 1 << 15;

/// All records of the process: segments that are made as they are needed and stay.
static SEGMENTS: [AtomicPtr<Record>; SEGMENTS_MAX] = [const { AtomicPtr::new(null_mut()) }; SEGMENTS_MAX];
static RECORDS: Mutex<FreeRecords> = Mutex::new(FreeRecords { first: NO_SLOT, n_made: 0 });

/// Returns the record of a slot that was named by a record.
#[inline]
pub(crate) fn record(slot: Slot) -> &'static Record {
    let segment = SEGMENTS[slot as usize / SEGMENT].load(Ordering::Acquire);
    assert!(!segment.is_null(), "slot {slot} was never made");
    // SAFETY: a segment has SEGMENT records, is published once it is complete, and never goes.
    unsafe { &*segment.add(slot as usize % SEGMENT) }
}

/// Records that a thread keeps for itself, so that it need not lock for each.
const KEPT_BY_A_THREAD: usize = 32;

struct Kept(Vec<&'static Record>);

impl Drop for Kept {
    fn drop(&mut self) {
        lock(&RECORDS).push_all(&mut self.0, 0);
    }
}

thread_local! {
    static KEPT: RefCell<Kept> = const { RefCell::new(Kept(Vec::new())) };
}

fn take_free() -> &'static Record {
    let from_kept = |kept: &RefCell<Kept>| {
        let kept = &mut kept.borrow_mut().0;
        if kept.is_empty() {
            let mut free = lock(&RECORDS);
            kept.extend((0..KEPT_BY_A_THREAD).map(|_| free.pop()));
        }
        kept.pop()
    };
    // A thread that is ending keeps nothing any more.
    KEPT.try_with(from_kept).ok().flatten().unwrap_or_else(|| lock(&RECORDS).pop())
}

fn put_free(record: &'static Record) {
    let to_kept = |kept: &RefCell<Kept>| {
        let kept = &mut kept.borrow_mut().0;
        kept.push(record);
        if kept.len() > 2 * KEPT_BY_A_THREAD {
            lock(&RECORDS).push_all(kept, KEPT_BY_A_THREAD);
        }
    };
    if KEPT.try_with(to_kept).is_err() {
        lock(&RECORDS).push(record);
    }
}

/// The records that have no chunk, linked by `standing.next`.
struct FreeRecords {
    first: Slot,
    n_made: usize,
}

impl FreeRecords {
    fn pop(&mut self) -> &'static Record {
        if self.first == NO_SLOT {
            self.make_segment();
        }
        let record = record(self.first);
        self.first = record.standing.next.load(Ordering::Relaxed);
        record
    }

    fn push(&mut self, record: &'static Record) {
        record.standing.next.store(self.first, Ordering::Relaxed);
        self.first = record.slot;
    }

    /// Takes all but the first `n_left` records back.
    fn push_all(&mut self, records: &mut Vec<&'static Record>, n_left: usize) {
        records.drain(n_left..).for_each(|record| self.push(record));
    }

    fn make_segment(&mut self) {
        let n_before = self.n_made;
        assert!(n_before / SEGMENT < SEGMENTS_MAX, "{n_before} chunks are in memory");
        let contents: Box<[ContentCell]> = (0..SEGMENT).map(|_| ContentCell(UnsafeCell::new(None))).collect();
        let numbered = (n_before..).zip(&*Box::leak(contents));
        let records: Box<[Record]> = numbered.map(|(n, content)| Record::new(n as Slot, content)).collect();
        let records = Box::leak(records);
        SEGMENTS[n_before / SEGMENT].store(records.as_mut_ptr(), Ordering::Release);
        self.n_made += SEGMENT;
        (n_before..self.n_made).rev().for_each(|slot| self.push(record(slot as Slot)));
    }
}
