//! The file descriptors of the process that an instance holds, counted.
//!
//! Their owners share them, so nothing reports when one is closed. For each file the count keeps a weak reference, and
//! for each entry of a table a test whether it is still there.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

/// The files, directories and sockets that an instance has open, besides the directories that it is granted. `Table` is
/// the table with its sockets.
pub(in crate::wasm) struct OpenFiles<Table> {
    max: usize,
    files: Vec<Weak<dyn Any + Send + Sync>>,
    /// By place in the table.
    in_table: BTreeMap<u32, IsThere<Table>>,
}

/// Reports whether an entry is still at its place in the table.
pub(in crate::wasm) type IsThere<Table> = fn(&Table, u32) -> bool;

/// One of the allowed open files, reserved for a file that is being opened.
pub(in crate::wasm) struct OpenFileSlot(#[expect(dead_code, reason = "is there to be dropped")] Arc<()>);

impl<Table> OpenFiles<Table> {
    pub(in crate::wasm) fn new(max: usize) -> Self {
        Self { max, files: Vec::new(), in_table: BTreeMap::new() }
    }

    /// Reports whether there is room for one more. Looks for closed files only if there seems to be no room.
    pub(in crate::wasm) fn have_room(&mut self, table: &Table) -> bool {
        if self.count() >= self.max {
            self.files.retain(|file| file.strong_count() > 0);
            self.in_table.retain(|place, is_there| is_there(table, *place));
        }
        self.count() < self.max
    }

    /// Reserves a slot for a file that is about to be opened, if there is room.
    pub(in crate::wasm) fn reserve(&mut self, table: &Table) -> Option<OpenFileSlot> {
        self.have_room(table).then(|| {
            let place = Arc::new(());
            let weak = Arc::downgrade(&place);
            self.files.push(weak);
            OpenFileSlot(place)
        })
    }

    /// Counts a file that has been opened, instead of the slot that was reserved for it.
    pub(in crate::wasm) fn opened<F: Any + Send + Sync>(&mut self, file: &Arc<F>, _place: OpenFileSlot) {
        let file = Arc::downgrade(file);
        self.files.push(file);
    }

    /// Counts an entry of the table for as long as it is there.
    pub(in crate::wasm) fn put(&mut self, place: u32, is_there: IsThere<Table>) {
        self.in_table.insert(place, is_there);
    }

    fn count(&self) -> usize {
        self.files.len() + self.in_table.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Table(Vec<u32>);

    fn is_there(table: &Table, place: u32) -> bool {
        table.0.contains(&place)
    }

    #[test]
    fn so_many_have_room_until_one_is_closed() {
        let mut table = Table(vec![7]);
        let mut open = OpenFiles::new(3);
        open.put(7, is_there);
        let place = open.reserve(&table).unwrap();
        let file = Arc::new("a file");
        open.opened(&file, place);
        let opening = open.reserve(&table).unwrap();
        assert!(open.reserve(&table).is_none(), "a socket, a file, and one that is being opened");
        drop(opening);
        let opening = open.reserve(&table).unwrap();
        drop(file);
        assert!(open.have_room(&table), "the file is closed");
        table.0.clear();
        let second = open.reserve(&table);
        assert!(second.is_some() && open.have_room(&table), "the socket is gone too");
        drop(opening);
    }
}
