//! The owner of users: who there is on the auth node, and what they may do.

use serde_json::{Value, json};
use shop_persistence::outbox::{self, OutboxEvent};
use shop_persistence::pages::PageRequest;
use shop_persistence::users::{self, Credentials, NewUser, Profile, Role, User, UserId, Versioned};
use shop_persistence::{Confirmation, Database, Error, Event, Result, Session, events::Gone};
use shop_runtime::{Actor, ActorContext, HandlerResult, respond};
use strum::IntoStaticStr;

use crate::Reply;
use crate::idempotency::{IdempotencyKey, Replayable, change};

/// What the owner of users may be asked.
#[derive(Debug, IntoStaticStr)]
pub enum Msg {
    /// Somebody signs up.
    Register(NewUser, Option<IdempotencyKey>, Reply<Replayable<User>>),
    /// Who is this?
    Find(UserId, Reply<User>),
    /// Who has this name, whatever its case, and what does the password hash to?
    FindCredentials(String, Reply<Option<Credentials>>),
    /// Users, in the order of signing up.
    List(PageRequest<UserId>, Reply<Vec<User>>),
    /// A user changes its name or address.
    Update(UserId, Profile, Option<IdempotencyKey>, Reply<Replayable<User>>),
    /// An administrator changes what a user may do.
    SetRole(UserId, Role, Option<IdempotencyKey>, Reply<Replayable<User>>),
    /// An administrator removes a user.
    Delete(UserId, Option<IdempotencyKey>, Reply<Replayable<Confirmation>>),
}

/// Owns users.
#[derive(Debug)]
pub struct Users {
    session: Session,
}

impl Users {
    /// An owner of the users in this database.
    pub fn new(database: &Database) -> Users {
        Users { session: database.session() }
    }

    /// Adds a user, and says so to the other nodes.
    pub async fn register(
        &mut self,
        new: NewUser,
        key: Option<IdempotencyKey>,
    ) -> Result<Replayable<User>> {
        change(&mut self.session, key, async |tx| {
            let Versioned { user, version } = users::insert(tx, &new).await?;
            let created = OutboxEvent::new(Event::UserCreated(user.clone()), version);
            outbox::append(tx, &[created]).await?;
            Ok(user)
        })
        .await
    }

    async fn find(&mut self, id: UserId) -> Result<User> {
        users::find(self.session.connection().await?, id).await
    }

    /// Finds a user by name, whatever its case, with the hash of the password.
    pub async fn find_credentials(&mut self, username: String) -> Result<Option<Credentials>> {
        users::find_credentials(self.session.connection().await?, &username).await
    }

    async fn list(&mut self, part: PageRequest<UserId>) -> Result<Vec<User>> {
        users::list(self.session.connection().await?, part).await
    }

    async fn update(
        &mut self,
        id: UserId,
        profile: Profile,
        key: Option<IdempotencyKey>,
    ) -> Result<Replayable<User>> {
        change(&mut self.session, key, async |tx| {
            if profile.is_empty() {
                return users::find(tx, id).await;
            }
            let Versioned { user, version } = users::update(tx, id, &profile).await?;
            let updated = OutboxEvent::new(Event::UserUpdated(user.clone()), version);
            outbox::append(tx, &[updated]).await?;
            Ok(user)
        })
        .await
    }

    /// Changes what a user may do, unless that leaves no administrator.
    pub async fn set_role(
        &mut self,
        id: UserId,
        role: Role,
        key: Option<IdempotencyKey>,
    ) -> Result<Replayable<User>> {
        change(&mut self.session, key, async |tx| {
            let admins = users::lock_admins(tx).await?;
            if role != Role::Admin {
                another_remains(&admins, id)?;
            }
            let user = users::find(tx, id).await?;
            if user.role == role {
                return Ok(user);
            }
            let Versioned { user, version } = users::set_role(tx, id, role).await?;
            let updated = OutboxEvent::new(Event::UserUpdated(user.clone()), version);
            outbox::append(tx, &[updated]).await?;
            Ok(user)
        })
        .await
    }

    async fn delete(
        &mut self,
        id: UserId,
        key: Option<IdempotencyKey>,
    ) -> Result<Replayable<Confirmation>> {
        change(&mut self.session, key, async |tx| {
            another_remains(&users::lock_admins(tx).await?, id)?;
            let version = users::delete(tx, id).await?;
            outbox::append(tx, &[OutboxEvent::new(Event::UserDeleted(Gone { id }), version)])
                .await?;
            Ok(Confirmation { message: "the user is deleted" })
        })
        .await
    }

    /// Whether there is an administrator.
    pub async fn has_admin(&mut self) -> Result<bool> {
        users::has_admin(self.session.connection().await?).await
    }

    /// Makes the first administrator, unless there is one; says whether it did.
    pub async fn register_first_admin(&mut self, new: NewUser) -> Result<bool> {
        let mut tx = self.session.begin().await?;
        users::lock_first_admin(&mut tx).await?;
        if users::has_admin(&mut tx).await? {
            return Ok(false);
        }
        let Versioned { user, version } = users::insert(&mut tx, &new).await?;
        outbox::append(&mut tx, &[OutboxEvent::new(Event::UserCreated(user), version)]).await?;
        tx.commit().await?;
        Ok(true)
    }
}

/// The last administrator stays one.
fn another_remains(admins: &[UserId], without: UserId) -> Result<()> {
    match admins == [without] {
        true => {
            Err(Error::Conflict("this is the last administrator; make another one first".into()))
        }
        false => Ok(()),
    }
}

impl Actor for Users {
    type Msg = Msg;

    fn state(&self) -> Value {
        json!({"connected": self.session.is_open()})
    }

    async fn handle(&mut self, _: &ActorContext<Msg>, message: Msg) -> HandlerResult {
        match message {
            Msg::Register(new, key, reply) => respond(reply, self.register(new, key).await),
            Msg::Find(id, reply) => respond(reply, self.find(id).await),
            Msg::FindCredentials(username, reply) => {
                respond(reply, self.find_credentials(username).await)
            }
            Msg::List(part, reply) => respond(reply, self.list(part).await),
            Msg::Update(id, profile, key, reply) => {
                respond(reply, self.update(id, profile, key).await)
            }
            Msg::SetRole(id, role, key, reply) => {
                respond(reply, self.set_role(id, role, key).await)
            }
            Msg::Delete(id, key, reply) => respond(reply, self.delete(id, key).await),
        }
    }
}
