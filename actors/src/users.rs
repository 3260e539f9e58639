//! The owner of users: who there is on the auth node, and what they may do.

use serde_json::{Value, json};
use shop_persistence::lists::Part;
use shop_persistence::outbox::{self, Entry};
use shop_persistence::users::{self, Credentials, NewUser, Profile, Role, User, UserId, Versioned};
use shop_persistence::{Database, Error, Event, Note, Result, Session, events::Gone};
use strum::IntoStaticStr;

use crate::idempotency::{Done, Once, change};
use crate::{Handled, Me, Owner, Reply, answer};

/// What the owner of users may be asked.
#[derive(Debug, IntoStaticStr)]
pub enum Msg {
    /// Somebody signs up.
    Register(NewUser, Option<Once>, Reply<Done<User>>),
    /// Who is this?
    Find(UserId, Reply<User>),
    /// Who has this name, whatever its case, and what does the password hash to?
    FindCredentials(String, Reply<Option<Credentials>>),
    /// Users, in the order of signing up.
    List(Part<UserId>, Reply<Vec<User>>),
    /// A user changes its name or address.
    Update(UserId, Profile, Option<Once>, Reply<Done<User>>),
    /// An administrator changes what a user may do.
    SetRole(UserId, Role, Option<Once>, Reply<Done<User>>),
    /// An administrator removes a user.
    Delete(UserId, Option<Once>, Reply<Done<Note>>),
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
    pub async fn register(&mut self, new: NewUser, once: Option<Once>) -> Result<Done<User>> {
        change(&mut self.session, once, async |tx| {
            let Versioned { user, version } = users::insert(tx, &new).await?;
            let created = Entry::new(Event::UserCreated(user.clone()), version);
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

    async fn list(&mut self, part: Part<UserId>) -> Result<Vec<User>> {
        users::list(self.session.connection().await?, part).await
    }

    async fn update(
        &mut self,
        id: UserId,
        profile: Profile,
        once: Option<Once>,
    ) -> Result<Done<User>> {
        change(&mut self.session, once, async |tx| {
            if profile.is_empty() {
                return users::find(tx, id).await;
            }
            let Versioned { user, version } = users::update(tx, id, &profile).await?;
            let updated = Entry::new(Event::UserUpdated(user.clone()), version);
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
        once: Option<Once>,
    ) -> Result<Done<User>> {
        change(&mut self.session, once, async |tx| {
            let admins = users::lock_admins(tx).await?;
            if role != Role::Admin {
                another_remains(&admins, id)?;
            }
            let user = users::find(tx, id).await?;
            if user.role == role {
                return Ok(user);
            }
            let Versioned { user, version } = users::set_role(tx, id, role).await?;
            let updated = Entry::new(Event::UserUpdated(user.clone()), version);
            outbox::append(tx, &[updated]).await?;
            Ok(user)
        })
        .await
    }

    async fn delete(&mut self, id: UserId, once: Option<Once>) -> Result<Done<Note>> {
        change(&mut self.session, once, async |tx| {
            another_remains(&users::lock_admins(tx).await?, id)?;
            let version = users::delete(tx, id).await?;
            outbox::append(tx, &[Entry::new(Event::UserDeleted(Gone { id }), version)]).await?;
            Ok(Note { message: "the user is deleted" })
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
        outbox::append(&mut tx, &[Entry::new(Event::UserCreated(user), version)]).await?;
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

impl Owner for Users {
    type Msg = Msg;

    fn state(&self) -> Value {
        json!({"connected": self.session.is_open()})
    }

    async fn handle(&mut self, _: &Me<Msg>, message: Msg) -> Handled {
        match message {
            Msg::Register(new, once, reply) => answer(reply, self.register(new, once).await),
            Msg::Find(id, reply) => answer(reply, self.find(id).await),
            Msg::FindCredentials(username, reply) => {
                answer(reply, self.find_credentials(username).await)
            }
            Msg::List(part, reply) => answer(reply, self.list(part).await),
            Msg::Update(id, profile, once, reply) => {
                answer(reply, self.update(id, profile, once).await)
            }
            Msg::SetRole(id, role, once, reply) => {
                answer(reply, self.set_role(id, role, once).await)
            }
            Msg::Delete(id, once, reply) => answer(reply, self.delete(id, once).await),
        }
    }
}
