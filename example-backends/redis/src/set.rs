//! `SET`: stores the chunks of a call.

use std::time::Duration;

use kvtier_guest::{COPY_BYTES_MAX, Error, Sources};
use redis_protocol::resp2::types::OwnedFrame;

use crate::connection::{Broken, Connection, Reader, Writer};
use crate::items::{Answers, Item};
use crate::jobs::Job;
use crate::refusal::{self, Refusal};
use crate::resp;

/// The first bytes of a large value go with its header.
const FIRST_BYTES: u64 = 64 << 10;
/// The last write of a call has at least this many bytes, if the call does: several packets of any network. A small
/// packet is not sent as long as an earlier small one is unacknowledged (Nagle's algorithm, which WASI cannot switch
/// off), and the server acknowledges at once only what is more than a packet.
const LAST_BYTES: u64 = 192 << 10;

/// Stores chunks and returns for each whether it was stored: a present value stays, unless this `replaces` it.
pub(crate) struct Set<'a> {
    pub(crate) data: &'a Sources,
    pub(crate) ttl: Option<Duration>,
    pub(crate) replaces: bool,
}

impl Set<'_> {
    fn begin(&self, out: &mut Vec<u8>, item: &Item) {
        resp::begin(out, 3 + if self.ttl.is_some() { 2 } else { 0 } + usize::from(!self.replaces));
        resp::bulk(out, b"SET");
        resp::bulk(out, item.name.as_bytes());
        resp::bulk_header(out, self.value_bytes(item));
    }

    fn end(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"\r\n");
        if let Some(ttl) = self.ttl {
            resp::bulk(out, b"PX");
            resp::bulk(out, ttl.as_millis().to_string().as_bytes());
        }
        if !self.replaces {
            resp::bulk(out, b"NX");
        }
    }

    /// Appends a part of an item's chunk.
    fn append(&self, out: &mut Vec<u8>, item: &Item, offset: u64, n: u64) -> Result<(), Broken> {
        if n > 0 {
            out.extend_from_slice(&self.data.read(item.index, offset, n).map_err(Broken::Over)?);
        }
        Ok(())
    }

    /// Writes the command for an item, or leaves the last of it in `out`. Never has more than a piece of it in memory.
    async fn write(&self, writer: &mut Writer, out: &mut Vec<u8>, item: &Item) -> Result<(), Broken> {
        let size = self.value_bytes(item);
        self.begin(out, item);
        let (first, last) = if size <= 2 * LAST_BYTES { (size, 0) } else { (FIRST_BYTES, LAST_BYTES) };
        self.append(out, item, 0, first)?;
        let mut offset = first;
        if last > 0 {
            writer.write(std::mem::take(out)).await?;
        }
        while offset < size - last {
            let n = (size - last - offset).min(COPY_BYTES_MAX);
            writer.write(self.data.read(item.index, offset, n).map_err(Broken::Over)?).await?;
            offset += n;
        }
        self.append(out, item, offset, last)?;
        self.end(out);
        if out.len() as u64 >= 2 * LAST_BYTES {
            let last = out.split_off(out.len() - LAST_BYTES as usize);
            writer.write(std::mem::replace(out, last)).await?;
        }
        Ok(())
    }

    async fn write_all(&self, writer: &mut Writer, items: &[Item]) -> Result<(), Broken> {
        let mut out = Vec::new();
        for item in items {
            item.asking(&mut out);
            self.write(writer, &mut out, item).await?;
        }
        writer.write(out).await
    }
}

impl Job for Set<'_> {
    type Answer = bool;

    fn writes(&self) -> bool {
        true
    }

    fn value_bytes(&self, item: &Item) -> u64 {
        self.data.len(item.index)
    }

    fn is_wanted(&self) -> Result<(), Error> {
        if self.data.count() == 0 { Ok(()) } else { self.data.read(0, 0, 0).map(drop) }
    }

    fn command(&self, out: &mut Vec<u8>, item: &Item) -> Result<(), Broken> {
        self.begin(out, item);
        self.append(out, item, 0, self.value_bytes(item))?;
        self.end(out);
        Ok(())
    }

    async fn reply(&self, reader: &mut Reader, item: &Item) -> Result<Result<bool, Refusal>, Broken> {
        match reader.reply().await? {
            OwnedFrame::SimpleString(_) => Ok(Ok(true)),
            OwnedFrame::Null => Ok(Ok(false)),
            OwnedFrame::Error(words) if refusal::is_too_large(&words) => {
                Err(Broken::Over(refusal::too_large(self.value_bytes(item), &words, &reader.address)))
            }
            OwnedFrame::Error(words) => Ok(Err(refusal::refusal(&words, &reader.address))),
            other => Err(reader.faulty(&resp::unexpected(&other))),
        }
    }

    async fn alone(
        &self,
        connection: &mut Connection,
        items: &[Item],
        answers: &mut Answers<bool>,
    ) -> Result<(), Broken> {
        let written = self.write_all(&mut connection.writer, items).await;
        if let Err(broken @ (Broken::Faulty(_) | Broken::Over(_))) = written {
            return Err(broken);
        }
        // A server that ends the connection during a write has sent the reason.
        let replied = self.replies(&mut connection.reader, items, answers).await;
        match (written, replied) {
            (_, Err(said @ Broken::Over(_))) => Err(said),
            (Err(broken), _) => Err(broken),
            (Ok(()), replied) => replied,
        }
    }
}
