//! Brings the chunks of a call to the servers that have them, and follows where servers say that another has them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use kvtier_guest::Error;
use kvtier_guest::futures_util::future::join_all;
use kvtier_guest::wasip3::clocks::monotonic_clock;

use crate::cluster::Cluster;
use crate::config::Address;
use crate::connection::Broken;
use crate::items::{Answers, Item};
use crate::jobs::Job;
use crate::node::Node;
use crate::pipe::Pipe;
use crate::refusal::Refusal;
use crate::slots::slot_of;

/// Redirections of a key that are followed in one call.
const REDIRECTIONS_MAX: u32 = 5;
/// The first pause while a cluster is changing; it doubles.
const CHANGE_PAUSE: Duration = Duration::from_millis(20);

/// Where chunks are.
pub(crate) enum Servers {
    One(Rc<Node>),
    Cluster(Cluster),
}

/// A server's answer, with the address and the generation of its connection.
struct Outcome<T> {
    answers: Answers<T>,
    origin: Option<(SocketAddr, u64)>,
}

impl Servers {
    /// Does a job for all items, by the servers that have them, side by side, and returns the answers in order.
    pub(crate) async fn run<J: Job>(&self, items: Vec<Item>, job: &J) -> Vec<Result<J::Answer, Error>> {
        let mut done: Vec<Option<Result<J::Answer, Error>>> = items.iter().map(|_| None).collect();
        let mut open = items;
        for n_redirections in 0..=REDIRECTIONS_MAX {
            let mut refused = Vec::new();
            let groups = self.by_node(std::mem::take(&mut open), &mut refused);
            let outcomes = join_all(groups.iter().map(|(node, items)| on_node(node, items, job))).await;
            let origin = outcomes.first().and_then(|outcome| outcome.origin);
            let answers = outcomes.into_iter().flat_map(|outcome| outcome.answers);
            let items = groups.into_iter().flat_map(|(_, items)| items);
            for (item, answer) in items.zip(answers) {
                match answer {
                    Ok(answer) => done[item.place] = Some(Ok(answer)),
                    Err(refusal) => refused.push((item, refusal)),
                }
            }
            let followed = match self {
                _ if n_redirections == REDIRECTIONS_MAX => give_up(refused),
                Self::Cluster(cluster) => follow(cluster, refused, n_redirections).await,
                Self::One(node) => try_another(node, origin, refused),
            };
            for (item, error) in followed {
                match error {
                    Some(error) => done[item.place] = Some(Err(error)),
                    None => open.push(item),
                }
            }
            if open.is_empty() {
                break;
            }
        }
        let unanswered = || Err(Error::other("a chunk has no answer"));
        done.into_iter().map(|answer| answer.unwrap_or_else(unanswered)).collect()
    }

    /// Sorts items by the servers that are to be asked.
    fn by_node(&self, items: Vec<Item>, refused: &mut Vec<(Item, Refusal)>) -> Vec<(Rc<Node>, Vec<Item>)> {
        let cluster = match self {
            Self::One(_) if items.is_empty() => return Vec::new(),
            Self::One(node) => return vec![(Rc::clone(node), items)],
            Self::Cluster(cluster) => cluster,
        };
        let mut groups: HashMap<Address, Vec<Item>> = HashMap::new();
        for item in items {
            match item.ask.clone().map_or_else(|| cluster.owner(slot_of(&item.name)), Ok) {
                Ok(address) => groups.entry(address).or_default().push(item),
                Err(error) => refused.push((item, Refusal::Later(error))),
            }
        }
        groups.into_iter().map(|(address, items)| (cluster.node(&address), items)).collect()
    }

    /// Closes connections on which nothing has moved for too long.
    pub(crate) fn look_after(&self) {
        match self {
            Self::One(node) => node.look_after(),
            Self::Cluster(cluster) => cluster.look_after(),
        }
    }

    /// Closes the connections.
    pub(crate) fn close(&self) {
        match self {
            Self::One(node) => node.let_go(),
            Self::Cluster(cluster) => cluster.close(),
        }
    }
}

/// Runs a job on one server, and returns an answer for each item. Small commands share a connection with those of other
/// calls, large ones use a connection of the call's own.
async fn on_node<J: Job>(node: &Rc<Node>, items: &[Item], job: &J) -> Outcome<J::Answer> {
    let n_bytes = items.iter().map(|item| job.value_bytes(item)).sum();
    let mut outcome = Outcome { answers: Vec::with_capacity(items.len()), origin: None };
    let mut has_lost = false;
    let worked = loop {
        let pipe = match node.pipe(n_bytes).await {
            Ok(Some(pipe)) => pipe,
            Ok(None) => break alone(node, items, job, &mut outcome).await,
            Err(error) => break Err(unreachable(error)),
        };
        outcome.origin = Some((pipe.peer, node.generation()));
        match with_others(node, &pipe, (items, n_bytes), job, &mut outcome.answers).await {
            Ok(()) => break Ok(()),
            // It may have ended long ago, or with another call. All commands may be repeated.
            Err(Broken::Lost(_)) if !has_lost => has_lost = true,
            Err(broken) => break Err(refused(node, broken)),
        }
    };
    if job.writes()
        && let Some((peer, _)) = outcome.origin
        && outcome.answers.iter().any(Result::is_ok)
    {
        node.takes_writes(peer);
    }
    if let Err(refusal) = worked {
        outcome.answers.resize_with(items.len(), || Err(refusal.clone()));
    }
    outcome
}

/// Does a job for the items without an answer over a connection that other calls use at the same time.
async fn with_others<J: Job>(
    node: &Node,
    pipe: &Pipe,
    (items, n_bytes): (&[Item], u64),
    job: &J,
    answers: &mut Answers<J::Answer>,
) -> Result<(), Broken> {
    may_go_on(node, job).map_err(Broken::Over)?;
    let items = &items[answers.len()..];
    let commands = job.commands(items)?;
    pipe.ask(commands, n_bytes, async |reader| job.replies(reader, items, answers).await).await
}

/// Does a job for the items without an answer over a connection of its own.
async fn alone<J: Job>(
    node: &Rc<Node>,
    items: &[Item],
    job: &J,
    outcome: &mut Outcome<J::Answer>,
) -> Result<(), Refusal> {
    let mut lease = node.lease().await.map_err(unreachable)?;
    if let Err(error) = may_go_on(node, job) {
        lease.keep();
        return Err(Refusal::Error(error));
    }
    let n_before = outcome.answers.len();
    let answers = &mut outcome.answers;
    let items = &items[n_before..];
    let mut worked = job.alone(&mut lease.connection, items, answers).await;
    if let Err(Broken::Lost(_)) = worked
        && lease.was_idle
        && answers.len() == n_before
    {
        // It may have ended long ago. All commands may be repeated.
        worked = match lease.renew().await {
            Ok(()) => job.alone(&mut lease.connection, items, answers).await,
            Err(error) => Err(Broken::Lost(error)),
        };
    }
    outcome.origin = Some((lease.connection.peer, lease.generation));
    match worked {
        Ok(()) => lease.keep(),
        Err(broken) => return Err(refused(node, broken)),
    }
    Ok(())
}

/// Fails if the call is over, or if it would write where all servers have refused that.
fn may_go_on(node: &Node, job: &impl Job) -> Result<(), Error> {
    job.is_wanted()?;
    node.refuses_writes().filter(|_| job.writes()).map_or(Ok(()), Err)
}

/// Returns a call's error where there is no connection.
fn unreachable(error: Error) -> Refusal {
    match error {
        Error::InvalidConfig(_) => Refusal::Error(error),
        error => Refusal::Lost(error),
    }
}

/// Returns a call's error where its connection broke.
fn refused(node: &Node, broken: Broken) -> Refusal {
    match broken {
        Broken::Over(error) => Refusal::Error(error),
        Broken::Lost(error) => Refusal::Lost(error),
        Broken::Faulty(error) => {
            node.leave_alone(&error);
            Refusal::Lost(error)
        }
    }
}

/// Items that are to be tried again, and the others with their errors.
type Followed = Vec<(Item, Option<Error>)>;

fn give_up(refused: Vec<(Item, Refusal)>) -> Followed {
    refused.into_iter().map(|(item, refusal)| (item, Some(refusal.into_error()))).collect()
}

/// Leaves a server that refuses in favour of another, if there may be another.
fn try_another(node: &Node, origin: Option<(SocketAddr, u64)>, refused: Vec<(Item, Refusal)>) -> Followed {
    let cause = refused.iter().find_map(|(_, refusal)| match refusal {
        Refusal::Elsewhere(error) => Some(error),
        _ => None,
    });
    let goes_on = match (cause, origin) {
        (Some(cause), Some((peer, generation))) => node.leave(peer, generation, cause),
        _ => false,
    };
    if !goes_on {
        return give_up(refused);
    }
    let followed = refused.into_iter().map(|(item, refusal)| match refusal {
        Refusal::Elsewhere(_) => (item, None),
        refusal => (item, Some(refusal.into_error())),
    });
    followed.collect()
}

/// Does what the refusals of a cluster call for.
async fn follow(cluster: &Cluster, refused: Vec<(Item, Refusal)>, n_redirections: u32) -> Followed {
    let (mut is_changing, mut has_moved) = (false, false);
    for (item, refusal) in &refused {
        match refusal {
            Refusal::Moved(to) => {
                cluster.moved(slot_of(&item.name), to.clone());
                has_moved = true;
            }
            Refusal::Lost(_) => has_moved = true,
            Refusal::Later(_) => (is_changing, has_moved) = (true, true),
            Refusal::Ask(_) | Refusal::Error(_) | Refusal::Elsewhere(_) => {}
        }
    }
    let before: Vec<_> = refused.iter().map(|(item, _)| cluster.owner(slot_of(&item.name)).ok()).collect();
    if is_changing {
        monotonic_clock::wait_for((CHANGE_PAUSE * (1 << n_redirections)).as_nanos() as u64).await;
    }
    if has_moved {
        // If no server answers, the refusals hold the reason.
        drop(cluster.refresh().await);
    }
    let followed = refused.into_iter().zip(before).map(|((mut item, refusal), before)| {
        item.ask = None;
        match refusal {
            Refusal::Error(error) | Refusal::Elsewhere(error) => (item, Some(error)),
            // A node that is gone is asked again only if another has taken its place.
            Refusal::Lost(error) if cluster.owner(slot_of(&item.name)).ok() == before => (item, Some(error)),
            Refusal::Ask(to) => {
                item.ask = Some(to);
                (item, None)
            }
            Refusal::Moved(_) | Refusal::Lost(_) | Refusal::Later(_) => (item, None),
        }
    });
    followed.collect()
}
