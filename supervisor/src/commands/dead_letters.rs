//! `shop dead-letters`: lists, redrives and drops dead letters. Works on the databases, whether the
//! shop runs or not.

use std::time::Duration;

use anyhow::{anyhow, bail};
use shop_actors::Error;
use shop_actors::dead_letters::Msg;
use shop_persistence::Database;
use shop_persistence::dead_letters::{DeadLetter, DeadLetterId};
use shop_persistence::pages::PageRequest;
use shop_runtime::registry::ActorRegistry;
use shop_runtime::{Addr, Child, Root};

use super::databases::OpenDatabases;
use crate::config::Config;
use crate::nodes::{ActorFactory, Node, dead_letter_actor};
use crate::shop::restart_policy;

const REPLY_TIMEOUT: Duration = Duration::from_secs(20);

/// Number of dead letters that are read at once.
const PAGE_SIZE: i64 = 100;

/// What to do with dead letters.
#[derive(Clone, Copy, Debug, clap::Subcommand)]
pub enum Command {
    /// Lists all dead letters, oldest first.
    List,
    /// Applies the message of a dead letter again.
    Redrive {
        /// Id of the dead letter.
        id: DeadLetterId,
    },
    /// Deletes a dead letter.
    Drop {
        /// Id of the dead letter.
        id: DeadLetterId,
    },
}

/// Runs the command on the databases of these nodes. Returns its output.
///
/// # Errors
/// When there is no such dead letter, its message still cannot be applied, or a database cannot be
/// reached.
pub async fn run(config: &Config, nodes: &[Node], command: Command) -> anyhow::Result<String> {
    let databases = OpenDatabases::open(config, nodes).await?;
    let outcome = run_on(config, &databases, command).await;
    databases.close().await;
    outcome
}

async fn run_on(
    config: &Config,
    databases: &OpenDatabases,
    command: Command,
) -> anyhow::Result<String> {
    let (mut children, mut addrs) = (vec![], vec![]);
    for (node, database) in databases.iter() {
        let (addr, actors) = actors(*node, database);
        children.extend(actors);
        addrs.push(addr);
    }
    let registry = ActorRegistry::new("dead-letters");
    let root = Root::start(&registry, restart_policy(config), children)
        .await
        .map_err(|error| anyhow!("the actors did not start: {error}"))?;
    let outcome = match command {
        Command::List => list(&addrs).await,
        Command::Redrive { id } => redrive(&addrs, id).await,
        Command::Drop { id } => drop(&addrs, id).await,
    };
    root.stop().await;
    outcome
}

/// A node's dead-letters actor, and the actors that apply the redriven messages.
fn actors(node: Node, database: &Database) -> (Addr<Msg>, Vec<Child>) {
    let actors = ActorFactory {
        registry: ActorRegistry::new("command"),
        database: database.clone(),
        reply_timeout: REPLY_TIMEOUT,
    };
    let (subscriptions, mut children) = (node.spec().subscribers)(&actors);
    let (addr, letters) = dead_letter_actor(&actors, 16, &subscriptions);
    children.extend(letters);
    (addr, children)
}

async fn list(addrs: &[Addr<Msg>]) -> anyhow::Result<String> {
    let mut rows = vec![];
    for addr in addrs {
        let mut after = None;
        loop {
            let request = PageRequest { after, limit: PAGE_SIZE };
            let page = addr.ask((), |reply| Msg::List(None, request, reply)).await?;
            rows.extend(page.iter().map(row));
            match page.last() {
                Some(last) => after = Some(last.place()),
                None => break,
            }
        }
    }
    if rows.is_empty() {
        return Ok("there are no dead letters".to_owned());
    }
    let header = ["ID", "QUEUE", "EVENT", "FIRST FAILURE", "ATTEMPTS", "REASON"];
    rows.insert(0, header.map(str::to_owned));
    Ok(table(&rows))
}

fn row(letter: &DeadLetter) -> [String; 6] {
    let first_failed_at = format!("{:.0}", letter.first_failed_at);
    let DeadLetter { id, queue, event, tries, reason, .. } = letter;
    let tries = tries.to_string();
    [&id.to_string(), queue, event, &first_failed_at, &tries, reason].map(|cell| printable(cell))
}

/// Replaces control characters, because a message from outside could otherwise move the terminal's
/// cursor or change its colours.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<_> = (0..N).map(|column| width(column).unwrap_or_default()).collect();
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

async fn redrive(addrs: &[Addr<Msg>], id: DeadLetterId) -> anyhow::Result<String> {
    for addr in addrs {
        match addr.ask((), |reply| Msg::Redrive(id, None, reply)).await {
            Ok(_) => return Ok("the message is applied".to_owned()),
            Err(Error::NotFound(_)) => {}
            Err(Error::Conflict(reason)) => bail!("it still cannot be applied: {reason}"),
            Err(error) => return Err(error.into()),
        }
    }
    bail!(not_found(id))
}

async fn drop(addrs: &[Addr<Msg>], id: DeadLetterId) -> anyhow::Result<String> {
    for addr in addrs {
        match addr.ask((), |reply| Msg::Drop(id, None, reply)).await {
            Ok(_) => return Ok("the dead letter is dropped".to_owned()),
            Err(Error::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    bail!(not_found(id))
}

fn not_found(id: DeadLetterId) -> String {
    format!("there is no dead letter {id}; shop dead-letters list shows all")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_of_a_table_are_aligned_and_control_characters_replaced() {
        let rows = [["ID", "QUEUE"], ["7", "очередь\u{1b}[2J"], ["12", "q"]];
        let rows = rows.map(|row| row.map(printable));
        assert_eq!(table(&rows), "ID  QUEUE\n7   очередь\u{fffd}[2J\n12  q");
    }
}
