//! `shop dead-letters`: lists, redrives and drops what could not be applied. Works on the databases, whether the shop
//! runs or not.

use std::time::Duration;

use anyhow::{anyhow, bail};
use shop_actors::catalog::Catalog;
use shop_actors::customers::Customers;
use shop_actors::dead_letters::{DeadLetters, Msg};
use shop_actors::orders::Orders;
use shop_persistence::dead_letters::{DeadLetter, DeadLetterId};
use shop_persistence::pages::PageRequest;
use shop_persistence::{Database, Error};
use shop_runtime::registry::ActorRegistry;
use shop_runtime::{Addr, Message};
use tokio::sync::broadcast;

use crate::config::Config;
use crate::shop::{Node, policy};
use crate::tree::{catalog_subscriptions, order_subscriptions, owners, tree};
use crate::verify::Opened;
use shop_runtime::{Child, Root};

/// How long an owner may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// How many dead letters are read at once.
const PAGE: i64 = 100;

/// What to do with dead letters.
#[derive(Clone, Copy, Debug, clap::Subcommand)]
pub enum Command {
    /// Shows all of them, the oldest first.
    List,
    /// Tries one again, once its cause is gone.
    Redrive {
        /// Which one.
        id: DeadLetterId,
    },
    /// Forgets one for ever.
    Drop {
        /// Which one.
        id: DeadLetterId,
    },
}

/// Does it on the databases of these nodes. Says what was done.
///
/// # Errors
/// When there is no such dead letter, it still cannot be applied, or a database cannot be reached.
pub async fn run(config: &Config, nodes: &[Node], command: Command) -> anyhow::Result<String> {
    let opened = Opened::open(config, nodes).await?;
    let outcome = on_databases(config, &opened, command).await;
    opened.close().await;
    outcome
}

async fn on_databases(
    config: &Config,
    opened: &Opened,
    command: Command,
) -> anyhow::Result<String> {
    let (mut children, mut letters) = (vec![], vec![]);
    for (node, database) in opened.databases() {
        let (addr, branch) = staff(*node, database);
        children.extend(branch);
        letters.push(addr);
    }
    let root = Root::start(&ActorRegistry::new("dead-letters"), policy(config), children)
        .await
        .map_err(|error| anyhow!("the actors did not start: {error}"))?;
    let outcome = match command {
        Command::List => list(&letters).await,
        Command::Redrive { id } => redrive(&letters, id).await,
        Command::Drop { id } => drop(&letters, id).await,
    };
    root.stop().await;
    outcome
}

/// The owner of a node's dead letters, and those whom these are for.
fn staff(node: Node, database: &Database) -> (Addr<Msg>, Vec<Child>) {
    let (customers, catalog, orders) = (addr("customers"), addr("catalog"), addr("orders"));
    let (changed, _) = broadcast::channel(1); // nobody here remembers tokens
    let customer = move |database: &Database| Customers::new(database, changed.clone());
    let (subscriptions, mut children) = match node {
        Node::Auth => (vec![], vec![]),
        Node::Catalog => {
            let owners =
                [owners(&customers, database, customer), owners(&catalog, database, Catalog::new)];
            (catalog_subscriptions(&customers, &catalog), tree(owners))
        }
        Node::Order => {
            let owners =
                [owners(&customers, database, customer), owners(&orders, database, Orders::new)];
            (order_subscriptions(&customers, &orders), tree(owners))
        }
    };
    let letters = addr("dead_letters");
    let letter = move |database: &Database| DeadLetters::new(database, subscriptions.clone());
    children.extend(owners(&letters, database, letter));
    (letters, children)
}

fn addr<M: Message>(name: &'static str) -> Addr<M> {
    Addr::new(&ActorRegistry::new("command"), name, 1, 16, PATIENCE)
}

async fn list(letters: &[Addr<Msg>]) -> anyhow::Result<String> {
    let mut rows = vec![];
    for addr in letters {
        let mut after = None;
        loop {
            let part = PageRequest { after, limit: PAGE };
            let page = addr.ask((), |reply| Msg::List(None, part, reply)).await?;
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
    let head = ["ID", "QUEUE", "EVENT", "FIRST FAILURE", "TRIES", "REASON"];
    rows.insert(0, head.map(str::to_owned));
    Ok(table(&rows))
}

fn row(letter: &DeadLetter) -> [String; 6] {
    let first_failed_at = format!("{:.0}", letter.first_failed_at);
    let DeadLetter { id, queue, event, tries, reason, .. } = letter;
    let tries = tries.to_string();
    [&id.to_string(), queue, event, &first_failed_at, &tries, reason].map(|cell| printable(cell))
}

/// Anybody may have written it: no character moves the cursor or colours the terminal.
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

async fn redrive(letters: &[Addr<Msg>], id: DeadLetterId) -> anyhow::Result<String> {
    for addr in letters {
        match addr.ask((), |reply| Msg::Redrive(id, None, reply)).await {
            Ok(_) => return Ok("the message is applied".to_owned()),
            Err(Error::NotFound(_)) => {}
            Err(Error::Conflict(reason)) => bail!("it still cannot be applied: {reason}"),
            Err(error) => return Err(error.into()),
        }
    }
    bail!(unknown(id))
}

async fn drop(letters: &[Addr<Msg>], id: DeadLetterId) -> anyhow::Result<String> {
    for addr in letters {
        match addr.ask((), |reply| Msg::Drop(id, None, reply)).await {
            Ok(_) => return Ok("the dead letter is dropped".to_owned()),
            Err(Error::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    bail!(unknown(id))
}

fn unknown(id: DeadLetterId) -> String {
    format!("there is no dead letter {id}; shop dead-letters list shows all")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_column_for_each_kind_of_thing() {
        let rows = [["ID", "QUEUE"], ["7", "очередь\u{1b}[2J"], ["12", "q"]];
        let rows = rows.map(|row| row.map(printable));
        assert_eq!(table(&rows), "ID  QUEUE\n7   очередь\u{fffd}[2J\n12  q");
    }
}
