//! Users of the auth node and their roles.

use serde_json::{Value, json};
use shop_persistence::events::{UserCreated, UserDeleted, UserUpdated};
use shop_persistence::outbox::{self, OutboxEvent};
use shop_persistence::pages::PageRequest;
use shop_persistence::users::{self, Credentials, NewUser, Profile, Role, User, UserId, Versioned};
use shop_persistence::{Database, Session};
use shop_runtime::{Actor, ActorContext, HandlerResult, respond};
use strum::IntoStaticStr;

use crate::idempotency::{IdempotencyKey, Replayable, change};
use crate::{Confirmation, Error, Reply, Result};

/// Messages of the users actor.
#[derive(Debug, IntoStaticStr)]
pub enum Msg {
    /// Registers a user.
    Register(NewUser, Option<IdempotencyKey>, Reply<Replayable<User>>),
    /// Finds a user.
    Find(UserId, Reply<User>),
    /// Finds a user and the password hash by name, ignoring case.
    FindCredentials(String, Reply<Option<Credentials>>),
    /// Lists users in the order of registration.
    List(PageRequest<UserId>, Reply<Vec<User>>),
    /// Changes a user's name or email address.
    Update(UserId, Profile, Option<IdempotencyKey>, Reply<Replayable<User>>),
    /// Changes a user's role.
    SetRole(UserId, Role, Option<IdempotencyKey>, Reply<Replayable<User>>),
    /// Deletes a user.
    Delete(UserId, Option<IdempotencyKey>, Reply<Replayable<Confirmation>>),
}

/// The actor that serves a shard of the users.
#[derive(Debug)]
pub struct Users {
    session: Session,
}

impl Users {
    /// A shard of the users of this database.
    pub fn new(database: &Database) -> Users {
        Users { session: database.session() }
    }

    /// Adds a user and the event `user_created`.
    pub async fn register(
        &mut self,
        new: NewUser,
        key: Option<IdempotencyKey>,
    ) -> Result<Replayable<User>> {
        change(&mut self.session, key, async |tx| {
            let Versioned { user, version } = users::insert(tx, &new).await?;
            let created = OutboxEvent::new(&UserCreated(user.clone()), version)?;
            outbox::append(tx, &[created]).await?;
            Ok(user)
        })
        .await
    }

    async fn find(&mut self, id: UserId) -> Result<User> {
        Ok(users::find(self.session.connection().await?, id).await?)
    }

    /// Finds a user and the password hash by name, ignoring case.
    pub async fn find_credentials(&mut self, username: String) -> Result<Option<Credentials>> {
        Ok(users::find_credentials(self.session.connection().await?, &username).await?)
    }

    async fn list(&mut self, page: PageRequest<UserId>) -> Result<Vec<User>> {
        Ok(users::list(self.session.connection().await?, page).await?)
    }

    async fn update(
        &mut self,
        id: UserId,
        profile: Profile,
        key: Option<IdempotencyKey>,
    ) -> Result<Replayable<User>> {
        change(&mut self.session, key, async |tx| {
            if profile.is_empty() {
                return Ok(users::find(tx, id).await?);
            }
            let Versioned { user, version } = users::update(tx, id, &profile).await?;
            let updated = OutboxEvent::new(&UserUpdated(user.clone()), version)?;
            outbox::append(tx, &[updated]).await?;
            Ok(user)
        })
        .await
    }

    /// Changes a user's role, unless no administrator would remain.
    pub async fn set_role(
        &mut self,
        id: UserId,
        role: Role,
        key: Option<IdempotencyKey>,
    ) -> Result<Replayable<User>> {
        change(&mut self.session, key, async |tx| {
            let admins = users::lock_admins(tx).await?;
            if role != Role::Admin {
                check_admin_remains(&admins, id)?;
            }
            let user = users::find(tx, id).await?;
            if user.role == role {
                return Ok(user);
            }
            let Versioned { user, version } = users::set_role(tx, id, role).await?;
            let updated = OutboxEvent::new(&UserUpdated(user.clone()), version)?;
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
            check_admin_remains(&users::lock_admins(tx).await?, id)?;
            let version = users::delete(tx, id).await?;
            outbox::append(tx, &[OutboxEvent::new(&UserDeleted { id }, version)?]).await?;
            Ok(Confirmation { message: "the user is deleted" })
        })
        .await
    }

    /// Whether an administrator exists.
    pub async fn has_admin(&mut self) -> Result<bool> {
        Ok(users::has_admin(self.session.connection().await?).await?)
    }

    /// Creates the first administrator unless one exists; returns whether it did.
    pub async fn register_first_admin(&mut self, new: NewUser) -> Result<bool> {
        let mut tx = self.session.begin().await?;
        users::lock_first_admin(&mut tx).await?;
        if users::has_admin(&mut tx).await? {
            return Ok(false);
        }
        let Versioned { user, version } = users::insert(&mut tx, &new).await?;
        outbox::append(&mut tx, &[OutboxEvent::new(&UserCreated(user), version)?]).await?;
        tx.commit().await?;
        Ok(true)
    }
}

/// Checks that an administrator remains without this one.
fn check_admin_remains(admins: &[UserId], without: UserId) -> Result<()> {
    if admins == [without] {
        return Err(Error::Conflict(
            "this is the last administrator; make another one first".into(),
        ));
    }
    Ok(())
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
            Msg::List(page, reply) => respond(reply, self.list(page).await),
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
