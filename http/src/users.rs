//! Users: signing up and in, what a user sees and changes of itself, and what an administrator does with users.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use deserr::Deserr;
use serde::Serialize;
use shop_actors::passwords::{Password, Passwords};
use shop_actors::users::Msg;
use shop_persistence::users::{Email, NewUser, Profile, Role, User, UserId, Username};
use shop_persistence::{Confirmation, Error, InvalidValue};
use shop_runtime::Addr;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::auth::{Access, Routes};
use crate::body::{BrokenRules, Json, NoBody, Path};
use crate::context::Authenticated;
use crate::idempotency::{Idempotent, IdempotentResponse, KeyHeader};
use crate::keys::UserTokenKey;
use crate::pages::{ListQuery, Page, Paging};
use crate::problem::{Problem, Result};
use crate::verification::{self, VerifyRequest, VerifyResponse};

/// Whom the auth node's routes ask.
#[derive(Clone, Debug)]
pub struct Auth {
    /// The owner of users.
    pub users: Addr<Msg>,
    /// Hashes and compares passwords.
    pub passwords: Passwords,
    /// Signs tokens.
    pub tokens: Arc<UserTokenKey>,
}

/// The auth node's routes.
pub fn routes(auth: Auth) -> Routes {
    let anyone = OpenApiRouter::new()
        .routes(routes!(register))
        .routes(routes!(login))
        .routes(routes!(verify));
    let user = OpenApiRouter::new().routes(routes!(me, update_me));
    let admin = OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(find, delete))
        .routes(routes!(set_role));
    vec![
        (Access::Anyone, anyone.with_state(auth.clone())),
        (Access::User, user.with_state(auth.clone())),
        (Access::Admin, admin.with_state(auth)),
    ]
}

/// Somebody who signs up.
#[derive(Debug, Deserr, ToSchema)]
#[deserr(error = BrokenRules)]
struct Register {
    /// 3 to 64 characters, no spaces or control characters, unique whatever its case.
    #[deserr(try_from(String) = Username::parse -> InvalidValue)]
    #[schema(value_type = String, min_length = 3, max_length = 64, example = "anna")]
    username: Username,
    /// A valid address, unique whatever its case.
    #[deserr(try_from(String) = Email::parse -> InvalidValue)]
    #[schema(value_type = String, format = Email, max_length = 254, example = "anna@example.com")]
    email: Email,
    /// At least 8 characters, at most 72 bytes.
    #[deserr(try_from(String) = Password::parse -> InvalidValue)]
    #[schema(value_type = String, format = Password, min_length = 8, max_length = 72, example = "correct horse")]
    password: Password,
}

/// Signs up.
#[utoipa::path(
    post, path = "/api/v1/auth/register", tag = "auth", params(KeyHeader), request_body = Register, security(()),
    responses((status = 201, body = User), (status = "default", response = Problem))
)]
async fn register(
    State(auth): State<Auth>,
    Idempotent(named, Json(new)): Idempotent<Json<Register>>,
) -> Result<IdempotentResponse<User>> {
    let Register { username, email, password } = new;
    let password_hash = auth.passwords.hash(password).await?;
    let new = NewUser { username, email, password_hash, role: Role::User };
    let once = named.once(StatusCode::CREATED);
    let register = |reply| Msg::Register(new, once, reply);
    Ok(IdempotentResponse(StatusCode::CREATED, auth.users.ask(Uuid::new_v4(), register).await?))
}

/// Somebody who signs in.
#[derive(Deserr, ToSchema)]
#[deserr(error = BrokenRules)]
struct Login {
    /// The name, whatever its case.
    #[schema(example = "anna")]
    username: String,
    /// The password.
    #[schema(format = Password, example = "correct horse")]
    password: String,
}

/// A token to send with further requests.
#[derive(Debug, Serialize, ToSchema)]
struct SignedIn {
    /// The token: `Authorization: Bearer <access_token>`.
    access_token: String,
    /// How to send it.
    #[schema(example = "bearer")]
    token_type: &'static str,
    /// How long it is good, in seconds.
    #[schema(example = 1800)]
    expires_in: u64,
}

/// Signs in.
///
/// A wrong name and a wrong password get the same answer, in the same time.
#[utoipa::path(
    post, path = "/api/v1/auth/login", tag = "auth", request_body = Login, security(()),
    responses((status = 200, body = SignedIn), (status = "default", response = Problem))
)]
async fn login(State(auth): State<Auth>, Json(login): Json<Login>) -> Result<Answer<SignedIn>> {
    let Login { username, password } = login;
    let name = username.to_lowercase();
    let found = auth.users.ask(&name, |reply| Msg::FindCredentials(username, reply)).await?;
    let (user, hash) = found.map(|found| (found.user, found.password_hash)).unzip();
    let proven = auth.passwords.verify(password, hash).await?;
    let user = user.filter(|_| proven);
    let user = user.ok_or(Error::Unauthenticated("the name or the password is wrong"))?;
    let expires_in = auth.tokens.lifetime().as_secs();
    let access_token = auth.tokens.sign(&user)?;
    Ok(Answer(SignedIn { access_token, token_type: "bearer", expires_in }))
}

/// Says whether a token is good now, and whose it is.
#[utoipa::path(
    post, path = "/api/v1/auth/verify", tag = "auth", request_body = VerifyRequest, security(()),
    responses((status = 200, body = VerifyResponse), (status = "default", response = Problem))
)]
async fn verify(
    State(auth): State<Auth>,
    Json(VerifyRequest { token }): Json<VerifyRequest>,
) -> Result<Answer<VerifyResponse>> {
    let verified = verification::verify(&auth.tokens, &auth.users, &token).await;
    Ok(Answer(VerifyResponse::of(verified)?))
}

/// The caller.
#[utoipa::path(
    get, path = "/api/v1/users/me", tag = "users",
    responses((status = 200, body = User), (status = "default", response = Problem))
)]
async fn me(
    State(auth): State<Auth>,
    Authenticated(caller): Authenticated,
) -> Result<Answer<User>> {
    Ok(Answer(auth.users.ask(caller.id, |reply| Msg::Find(caller.id, reply)).await?))
}

/// What a user changes about itself.
#[derive(Debug, Deserr, ToSchema)]
#[deserr(error = BrokenRules)]
struct UpdateMe {
    /// The new name.
    #[deserr(default, try_from(Option<String>) = some_username -> InvalidValue)]
    #[schema(value_type = Option<String>, min_length = 3, max_length = 64, example = "anna")]
    username: Option<Username>,
    /// The new address.
    #[deserr(default, try_from(Option<String>) = some_email -> InvalidValue)]
    #[schema(value_type = Option<String>, format = Email, max_length = 254, example = "anna@example.org")]
    email: Option<Email>,
}

fn some_username(text: Option<String>) -> Result<Option<Username>, InvalidValue> {
    text.map(Username::parse).transpose()
}

fn some_email(text: Option<String>) -> Result<Option<Email>, InvalidValue> {
    text.map(Email::parse).transpose()
}

/// Changes the caller's name or address.
#[utoipa::path(
    put, path = "/api/v1/users/me", tag = "users", params(KeyHeader), request_body = UpdateMe,
    responses((status = 200, body = User), (status = "default", response = Problem))
)]
async fn update_me(
    State(auth): State<Auth>,
    Authenticated(caller): Authenticated,
    Idempotent(named, Json(UpdateMe { username, email })): Idempotent<Json<UpdateMe>>,
) -> Result<IdempotentResponse<User>> {
    let profile = Profile { username, email };
    let once = named.once(StatusCode::OK);
    let update = |reply| Msg::Update(caller.id, profile, once, reply);
    Ok(IdempotentResponse(StatusCode::OK, auth.users.ask(caller.id, update).await?))
}

/// All users, in the order of signing up.
///
/// With `limit`, a page of them; the header `Link` leads to the next one.
#[utoipa::path(
    get, path = "/api/v1/users", tag = "users", params(Paging),
    responses((status = 200, body = Vec<User>), (status = "default", response = Problem))
)]
async fn list(State(auth): State<Auth>, asked: ListQuery<UserId>) -> Result<Response> {
    let fetch = move |part| {
        let users = auth.users.clone();
        async move {
            let page = users.ask(Uuid::new_v4(), |reply| Msg::List(part, reply)).await?;
            Page::of(page, part, |user| user.id).map(Arc::new)
        }
    };
    asked.answer("/api/v1/users", fetch).await
}

/// One user.
#[utoipa::path(
    get, path = "/api/v1/users/{user_id}", tag = "users", params(("user_id" = Uuid, Path)),
    responses((status = 200, body = User), (status = "default", response = Problem))
)]
async fn find(State(auth): State<Auth>, Path(id): Path<UserId>) -> Result<Answer<User>> {
    Ok(Answer(auth.users.ask(id, |reply| Msg::Find(id, reply)).await?))
}

/// What a user shall be allowed.
#[derive(Debug, Deserr, ToSchema)]
#[deserr(error = BrokenRules)]
struct SetRole {
    /// USER or ADMIN.
    #[deserr(try_from(String) = Role::parse -> InvalidValue)]
    role: Role,
}

/// Changes what a user may do.
///
/// The last administrator cannot be demoted.
#[utoipa::path(
    put, path = "/api/v1/users/{user_id}/role", tag = "users",
    params(("user_id" = Uuid, Path), KeyHeader), request_body = SetRole,
    responses((status = 200, body = User), (status = "default", response = Problem))
)]
async fn set_role(
    State(auth): State<Auth>,
    Path(id): Path<UserId>,
    Idempotent(named, Json(SetRole { role })): Idempotent<Json<SetRole>>,
) -> Result<IdempotentResponse<User>> {
    let once = named.once(StatusCode::OK);
    let set_role = |reply| Msg::SetRole(id, role, once, reply);
    Ok(IdempotentResponse(StatusCode::OK, auth.users.ask(id, set_role).await?))
}

/// Removes a user.
///
/// The last administrator cannot be deleted.
#[utoipa::path(
    delete, path = "/api/v1/users/{user_id}", tag = "users", params(("user_id" = Uuid, Path), KeyHeader),
    responses((status = 200, body = Confirmation), (status = "default", response = Problem))
)]
async fn delete(
    State(auth): State<Auth>,
    Path(id): Path<UserId>,
    Idempotent(named, NoBody): Idempotent<NoBody>,
) -> Result<IdempotentResponse<Confirmation>> {
    let once = named.once(StatusCode::OK);
    let delete = |reply| Msg::Delete(id, once, reply);
    Ok(IdempotentResponse(StatusCode::OK, auth.users.ask(id, delete).await?))
}
