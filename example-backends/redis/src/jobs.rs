//! What servers are asked for chunks: a command for each, and its reply.

use kvtier_guest::{Error, Sinks};
use redis_protocol::resp2::types::OwnedFrame;

use crate::connection::{Broken, Connection, Reader};
use crate::items::{Answers, Item};
use crate::refusal::{self, Refusal};
use crate::resp;

/// Bytes of values that may be on their way to a call on a connection of its own: the server holds in memory what it
/// sends.
const WINDOW_BYTES: u64 = 8 << 20;

/// A command with the key of each item.
pub(crate) trait Job {
    type Answer;

    /// Reports whether it changes what is stored.
    fn writes(&self) -> bool;

    /// Returns how many bytes of a value come or go.
    fn value_bytes(&self, item: &Item) -> u64;

    /// Fails when the call is over, which may be before its turn comes.
    fn is_wanted(&self) -> Result<(), Error>;

    /// Appends the command, whole.
    fn command(&self, out: &mut Vec<u8>, item: &Item) -> Result<(), Broken>;

    /// Reads the reply to it.
    async fn reply(&self, reader: &mut Reader, item: &Item) -> Result<Result<Self::Answer, Refusal>, Broken>;

    /// Does the job for items on an exclusive connection, and adds the answers as they come.
    async fn alone(
        &self,
        connection: &mut Connection,
        items: &[Item],
        answers: &mut Answers<Self::Answer>,
    ) -> Result<(), Broken> {
        connection.writer.write(self.commands(items)?).await?;
        self.replies(&mut connection.reader, items, answers).await
    }

    /// Returns the commands for items.
    fn commands(&self, items: &[Item]) -> Result<Vec<u8>, Broken> {
        let mut out = Vec::new();
        for item in items {
            item.asking(&mut out);
            self.command(&mut out, item)?;
        }
        Ok(out)
    }

    /// Reads the replies to [`commands`](Self::commands).
    async fn replies(
        &self,
        reader: &mut Reader,
        items: &[Item],
        answers: &mut Answers<Self::Answer>,
    ) -> Result<(), Broken> {
        for item in items {
            item.asked(reader).await?;
            answers.push(self.reply(reader, item).await?);
        }
        Ok(())
    }
}

/// A command whose answer is a number.
pub(crate) struct Count<'a> {
    /// Its name, and the arguments after the key.
    pub(crate) command: &'a [&'a [u8]],
    pub(crate) writes: bool,
}

impl Job for Count<'_> {
    type Answer = i64;

    fn writes(&self) -> bool {
        self.writes
    }

    fn value_bytes(&self, _: &Item) -> u64 {
        0
    }

    fn is_wanted(&self) -> Result<(), Error> {
        Ok(())
    }

    fn command(&self, out: &mut Vec<u8>, item: &Item) -> Result<(), Broken> {
        resp::begin(out, self.command.len() + 1);
        resp::bulk(out, self.command[0]);
        resp::bulk(out, item.name.as_bytes());
        self.command[1..].iter().for_each(|argument| resp::bulk(out, argument));
        Ok(())
    }

    async fn reply(&self, reader: &mut Reader, _: &Item) -> Result<Result<i64, Refusal>, Broken> {
        match reader.reply().await? {
            OwnedFrame::Integer(number) => Ok(Ok(number)),
            OwnedFrame::Error(words) => Ok(Err(refusal::refusal(&words, &reader.address))),
            other => Err(reader.faulty(&resp::unexpected(&other))),
        }
    }
}

/// Fills the buffers of a call.
pub(crate) struct Get<'a> {
    pub(crate) into: &'a Sinks,
}

impl Job for Get<'_> {
    type Answer = Option<u64>;

    fn writes(&self) -> bool {
        false
    }

    fn value_bytes(&self, item: &Item) -> u64 {
        self.into.capacity(item.index)
    }

    fn is_wanted(&self) -> Result<(), Error> {
        if self.into.count() == 0 { Ok(()) } else { self.into.write(0, 0, &[]) }
    }

    fn command(&self, out: &mut Vec<u8>, item: &Item) -> Result<(), Broken> {
        resp::command(out, &[b"GET", item.name.as_bytes()]);
        Ok(())
    }

    async fn reply(&self, reader: &mut Reader, item: &Item) -> Result<Result<Option<u64>, Refusal>, Broken> {
        reader.read_value(self.into, item.index).await
    }

    async fn alone(
        &self,
        connection: &mut Connection,
        items: &[Item],
        answers: &mut Answers<Option<u64>>,
    ) -> Result<(), Broken> {
        let (mut n_sent, mut awaited_bytes) = (0, 0);
        for (n_read, item) in items.iter().enumerate() {
            let first = n_sent;
            while let Some(next) = items.get(n_sent)
                && (n_sent == n_read || awaited_bytes + self.value_bytes(next) <= WINDOW_BYTES)
            {
                awaited_bytes += self.value_bytes(next);
                n_sent += 1;
            }
            connection.writer.write(self.commands(&items[first..n_sent])?).await?;
            self.replies(&mut connection.reader, std::slice::from_ref(item), answers).await?;
            awaited_bytes -= self.value_bytes(item);
        }
        Ok(())
    }
}
