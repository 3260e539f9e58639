//! From a message to what an owner can hear: one `match`, and a reason for what cannot be.

use shop_actors::{catalog, customers, orders};
use shop_persistence::stock::{self, Moved, Movement};
use shop_persistence::{Event, InvalidValue, Result, customers::UserUpdate as CustomerNews};
use shop_runtime::Addr;

use crate::Message;

/// Something that an owner wants to hear.
#[derive(Debug, Clone, PartialEq)]
pub enum News {
    /// A user signed up, changed or left.
    Customer(CustomerNews),
    /// The catalog has a product to sell.
    Offer(stock::ProductUpdate),
    /// Stock was sold or given back.
    Movements(Vec<Movement>),
}

/// Reads a message. Anybody may have sent it: what is wrong with it is said, not guessed.
pub fn translate(message: &Message) -> Result<News, InvalidValue> {
    let event = Event::read(name(message), &message.body)?;
    let version = || match message.version {
        Some(version @ 1..) => Ok(version),
        Some(_) => Err(InvalidValue("header 'version' must be 1 or more".into())),
        None => Err(InvalidValue("header 'version' (int64) is missing".into())),
    };
    Ok(match event {
        Event::UserCreated(user) | Event::UserUpdated(user) => {
            News::Customer(CustomerNews { id: user.id, version: version()?, user: Some(user) })
        }
        Event::UserDeleted(gone) => {
            News::Customer(CustomerNews { id: gone.id, version: version()?, user: None })
        }
        Event::ProductCreated(offer) => {
            News::Offer(stock::ProductUpdate { version: version()?, offer })
        }
        Event::StockMoved(Moved { movements }) => News::Movements(movements),
    })
}

/// An event is named by where it was published: its exchange, or its queue on the default exchange. What was
/// put back from the dead letters has lost that and is named by its `type`.
pub(crate) fn name(message: &Message) -> &str {
    let published = match message.exchange.as_str() {
        "" => &message.routing_key,
        exchange => exchange,
    };
    match Event::NAMES.contains(&published) {
        true => published,
        false => message.kind.as_deref().unwrap_or(published),
    }
}

/// Whom a queue's news is for.
#[derive(Debug, Clone)]
pub enum Subscription {
    /// The owner of customers.
    Customers(Addr<customers::Msg>),
    /// The owner of orders, who sells what the catalog offers.
    Orders(Addr<orders::Msg>),
    /// The owner of the catalog, whose stock follows the sales.
    Catalog(Addr<catalog::Msg>),
}

impl Subscription {
    /// Whether this is what the owner wants to hear.
    pub fn takes(&self, news: &News) -> bool {
        matches!(
            (self, news),
            (Subscription::Customers(_), News::Customer(_))
                | (Subscription::Orders(_), News::Offer(_))
                | (Subscription::Catalog(_), News::Movements(_))
        )
    }

    /// Tells the owner all of it, in one transaction.
    pub async fn tell(&self, news: Vec<News>) -> Result<()> {
        match self {
            Subscription::Customers(customers) => {
                let news = news.into_iter().filter_map(|news| match news {
                    News::Customer(news) => Some(news),
                    _ => None,
                });
                let news = news.collect();
                customers.ask((), |reply| customers::Msg::Apply(news, reply)).await
            }
            Subscription::Orders(orders) => {
                let news = news.into_iter().filter_map(|news| match news {
                    News::Offer(news) => Some(news),
                    _ => None,
                });
                let news = news.collect();
                orders.ask((), |reply| orders::Msg::ApplyProducts(news, reply)).await
            }
            Subscription::Catalog(catalog) => {
                let movements = news.into_iter().flat_map(|news| match news {
                    News::Movements(movements) => movements,
                    _ => vec![],
                });
                let movements = movements.collect();
                catalog.ask((), |reply| catalog::Msg::ApplyMovements(movements, reply)).await
            }
        }
    }
}
