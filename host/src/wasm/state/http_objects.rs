//! The HTTP objects that an instance holds: fields, requests, responses, bodies, options, and requests that are sent.
//!
//! A guest can make them without a grant, and requests that are never sent use up the host's memory. So they are
//! counted, and each kind has a limit in bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use wasmtime::component::{Resource, ResourceTable};
use wasmtime::format_err;

use crate::config::BackendLimits;
use crate::limits::{
    HTTP_ANSWER_FIELDS_BYTES_MAX, HTTP_BODY_PIECE_BYTES, HTTP_FIELDS_BYTES_MAX,
    HTTP_FIELDS_UNGRANTED_BYTES_MAX, HTTP_OBJECTS_PER_REQUEST, HTTP_OBJECTS_UNGRANTED_MAX,
    HTTP_URL_PART_BYTES_MAX, HTTP_WORD_BYTES_MAX,
};
use crate::wasm::state::held::Charge;

/// The kinds of objects, by what they may hold.
#[derive(Clone, Copy)]
pub(in crate::wasm) enum Kind {
    /// Fields that the guest fills.
    Fields,
    /// A request with its URL, and the trailers of its body. Its headers were fields before.
    Request,
    /// The part of a body that waits to be sent.
    Body,
    /// Data from a server.
    Answer,
    /// A few numbers.
    Options,
}

/// The objects of one instance.
pub(in crate::wasm) struct Objects {
    is_granted: bool,
    max: usize,
    live: BTreeMap<u32, Object>,
    /// The number of objects at which those that are gone are looked for.
    look_at: usize,
    /// One reference for each request that is being sent by WASI 0.3: it has left the table.
    sending: Arc<()>,
    charge: Charge,
}

struct Object {
    is_there: IsThere,
    bytes: usize,
}

/// Reports whether an object is still at its place.
pub(in crate::wasm) type IsThere = fn(&ResourceTable, u32) -> bool;

/// A result that may have a new object in it.
pub(in crate::wasm) trait Made {
    /// Returns the place of the object in the table.
    fn object(&self) -> Option<(u32, IsThere)>;
}

impl<T: 'static> Made for Resource<T> {
    fn object(&self) -> Option<(u32, IsThere)> {
        Some((self.rep(), |table, place| table.get(&Resource::<T>::new_borrow(place)).is_ok()))
    }
}

impl<M: Made> Made for Option<M> {
    fn object(&self) -> Option<(u32, IsThere)> {
        self.as_ref().and_then(M::object)
    }
}

impl<M: Made, E> Made for Result<M, E> {
    fn object(&self) -> Option<(u32, IsThere)> {
        self.as_ref().ok().and_then(M::object)
    }
}

/// Counts a request that is being sent.
pub(in crate::wasm) struct Sending(#[expect(dead_code, reason = "is there to be dropped")] Arc<()>);

impl Objects {
    pub(in crate::wasm) fn new(is_granted: bool, limits: &BackendLimits, charge: Charge) -> Self {
        let max = if is_granted {
            limits.http_requests_max.saturating_mul(HTTP_OBJECTS_PER_REQUEST)
        } else {
            HTTP_OBJECTS_UNGRANTED_MAX
        };
        let (live, look_at) = (BTreeMap::new(), HTTP_OBJECTS_UNGRANTED_MAX.min(max));
        Self { is_granted, max, live, look_at, sending: Arc::default(), charge }
    }

    /// Returns how many bytes the fields of one object may have.
    pub(in crate::wasm) fn fields_bytes_max(&self) -> usize {
        if self.is_granted { HTTP_FIELDS_BYTES_MAX } else { HTTP_FIELDS_UNGRANTED_BYTES_MAX }
    }

    /// Reports whether there is room for one more.
    pub(in crate::wasm) fn have_room(&mut self, table: &ResourceTable) -> bool {
        if self.count() >= self.look_at {
            self.live.retain(|place, object| (object.is_there)(table, *place));
            self.look_at = (2 * self.count()).clamp(HTTP_OBJECTS_UNGRANTED_MAX, self.max);
            self.show();
        }
        self.count() < self.max
    }

    /// Counts a request that is about to be sent; `None` if there are too many.
    pub(in crate::wasm) fn send(&mut self, table: &ResourceTable) -> Option<Sending> {
        self.have_room(table).then(|| Sending(Arc::clone(&self.sending)))
    }

    fn count(&self) -> usize {
        self.live.len() + Arc::strong_count(&self.sending) - 1
    }

    pub(in crate::wasm) fn put(&mut self, place: u32, is_there: IsThere, kind: Kind) {
        let bytes = self.bytes_max(kind);
        self.live.insert(place, Object { is_there, bytes });
        self.show();
    }

    fn bytes_max(&self, kind: Kind) -> usize {
        match kind {
            Kind::Fields => self.fields_bytes_max(),
            Kind::Request => 2 * HTTP_URL_PART_BYTES_MAX + 2 * HTTP_WORD_BYTES_MAX + self.fields_bytes_max(),
            Kind::Body => 2 * HTTP_BODY_PIECE_BYTES,
            Kind::Answer => HTTP_ANSWER_FIELDS_BYTES_MAX,
            Kind::Options => 0,
        }
    }

    fn show(&mut self) {
        let sending = self.bytes_max(Kind::Request) + self.fields_bytes_max() + self.bytes_max(Kind::Body);
        let n_sending = Arc::strong_count(&self.sending) - 1;
        let bytes = self.live.values().map(|object| object.bytes).sum::<usize>() + n_sending * sending;
        self.charge.set(bytes as u64);
    }

    pub(in crate::wasm) fn refusal(&self) -> wasmtime::Error {
        let max = self.max;
        if self.is_granted {
            format_err!("more than the {max} HTTP objects allowed by http_requests_max")
        } else {
            format_err!("more than the {max} HTTP objects of a backend without a grant for HTTP in allow.net")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn objects(is_granted: bool) -> (Objects, Arc<AtomicU64>) {
        let held = Arc::default();
        let limits = BackendLimits { http_requests_max: 2, ..BackendLimits::default() };
        (Objects::new(is_granted, &limits, Charge::new(&held)), held)
    }

    pub(in crate::wasm) fn put(objects: &mut Objects, object: &impl Made, kind: Kind) {
        let (place, is_there) = object.object().unwrap();
        objects.put(place, is_there, kind);
    }

    #[test]
    fn so_many_objects_have_room_and_those_that_are_gone_do_not_count() {
        for (is_granted, max) in [(false, HTTP_OBJECTS_UNGRANTED_MAX), (true, 2 * HTTP_OBJECTS_PER_REQUEST)] {
            let (mut objects, held) = objects(is_granted);
            let mut table = ResourceTable::new();
            let mut made = Vec::new();
            for n in 0..max {
                assert!(objects.have_room(&table), "{n}");
                let object = table.push(n).unwrap();
                put(&mut objects, &object, Kind::Fields);
                made.push(object);
            }
            assert!(!objects.have_room(&table));
            let n_bytes = max * objects.fields_bytes_max();
            assert_eq!(held.load(Ordering::Relaxed), n_bytes as u64);
            table.delete(made.pop().unwrap()).unwrap();
            assert!(objects.have_room(&table));
            // In the place of the other, and of another kind.
            let object = table.push("text").unwrap();
            put(&mut objects, &object, Kind::Options);
            assert!(!objects.have_room(&table));
            drop(objects);
            assert_eq!(held.load(Ordering::Relaxed), 0);
        }
    }

    #[test]
    fn a_request_that_is_being_sent_counts_until_it_is_given_up() {
        let (mut objects, _) = objects(false);
        let table = ResourceTable::new();
        let sent: Vec<_> = (0..HTTP_OBJECTS_UNGRANTED_MAX).map(|_| Arc::clone(&objects.sending)).collect();
        assert!(!objects.have_room(&table));
        drop(sent);
        assert!(objects.have_room(&table));
    }

    #[test]
    fn without_a_grant_all_fields_together_have_as_much_as_one_has_with_it() {
        let (objects, _) = objects(false);
        assert_eq!(objects.max * objects.fields_bytes_max(), HTTP_FIELDS_BYTES_MAX);
    }
}
