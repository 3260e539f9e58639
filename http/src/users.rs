//! The auth node's API: registration, login, the own user, and the administration of users.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use deserr::Deserr;
use serde::Serialize;
use shop_actors::passwords::{Password, Passwords};
use shop_actors::users::Msg;
use shop_actors::{Confirmation, Error};
use shop_persistence::InvalidValue;
use shop_persistence::users::{Email, NewUser, Profile, Role, User, UserId, Username};
use shop_runtime::Addr;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::auth::{Access, Routes};
use crate::body::{Json, NoBody, Path, ValidationErrors};
use crate::context::Authenticated;
use crate::idempotency::{Idempotent, IdempotentResponse, KeyHeader};
use crate::keys::UserTokenKey;
use crate::pages::{ListQuery, Page, Paging};
use crate::problem::{Problem, Result};
use crate::verification::{self, VerifyRequest, VerifyResponse};

/// What the routes of the auth node use.
#[derive(Clone, Debug)]
pub struct Auth {
    /// The users actor.
    pub users: Addr<Msg>,
    /// Hashes and verifies passwords.
    pub passwords: Passwords,
    /// Signs access tokens.
    pub tokens: Arc<UserTokenKey>,
}

/// The auth node's routes.
pub fn routes(auth: Auth) -> Routes {
    let anyone = OpenApiRouter::new()
        .routes(routes!(register))
        .routes(routes!(login))
        .routes(routes!(verify_token));
    let user = OpenApiRouter::new().routes(routes!(current_user, update_current_user));
    let admin = OpenApiRouter::new()
        .routes(routes!(list_users))
        .routes(routes!(find_user, delete_user))
        .routes(routes!(set_role));
    vec![
        (Access::Anyone, anyone.with_state(auth.clone())),
        (Access::User, user.with_state(auth.clone())),
        (Access::Admin, admin.with_state(auth)),
    ]
}

/// A user to register.
#[derive(Debug, Deserr, ToSchema)]
#[deserr(error = ValidationErrors)]
struct Register {
    /// 3 to 64 characters without spaces and control characters; unique, case-insensitively.
    #[deserr(try_from(String) = Username::parse -> InvalidValue)]
    #[schema(value_type = String, min_length = 3, max_length = 64, example = "anna")]
    username: Username,
    /// A valid address; unique, case-insensitively.
    #[deserr(try_from(String) = Email::parse -> InvalidValue)]
    #[schema(value_type = String, format = Email, max_length = 254, example = "anna@example.com")]
    email: Email,
    /// At least 8 characters, at most 72 bytes.
    #[deserr(try_from(String) = Password::parse -> InvalidValue)]
    #[schema(value_type = String, format = Password, min_length = 8, max_length = 72, example = "correct horse")]
    password: Password,
}

/// Registers a user.
#[utoipa::path(
    post, path = "/api/v1/auth/register", tag = "auth", params(KeyHeader), request_body = Register, security(()),
    responses((status = 201, body = User), (status = "default", response = Problem))
)]
async fn register(
    State(auth): State<Auth>,
    Idempotent(key, Json(new)): Idempotent<Json<Register>>,
) -> Result<IdempotentResponse<User>> {
    let Register { username, email, password } = new;
    let password_hash = auth.passwords.hash(password).await?;
    let new = NewUser { username, email, password_hash, role: Role::User };
    let key = key.with_success(StatusCode::CREATED);
    let register = |reply| Msg::Register(new, key, reply);
    Ok(IdempotentResponse(StatusCode::CREATED, auth.users.ask(Uuid::new_v4(), register).await?))
}

/// Credentials.
#[derive(Deserr, ToSchema)]
#[deserr(error = ValidationErrors)]
struct Login {
    /// The name, case-insensitive.
    #[schema(example = "anna")]
    username: String,
    /// The password.
    #[schema(format = Password, example = "correct horse")]
    password: String,
}

/// An access token.
#[derive(Debug, Serialize, ToSchema)]
struct LoginResponse {
    /// The token: `Authorization: Bearer <access_token>`.
    access_token: String,
    /// The type of the token.
    #[schema(example = "bearer")]
    token_type: &'static str,
    /// How long the token is valid, in seconds.
    #[schema(example = 1800)]
    expires_in: u64,
}

/// Signs in.
///
/// A wrong name and a wrong password get the same response, in the same time.
#[utoipa::path(
    post, path = "/api/v1/auth/login", tag = "auth", request_body = Login, security(()),
    responses((status = 200, body = LoginResponse), (status = "default", response = Problem))
)]
async fn login(State(auth): State<Auth>, Json(login): Json<Login>) -> Result<Json<LoginResponse>> {
    let Login { username, password } = login;
    let name = username.to_lowercase();
    let found = auth.users.ask(&name, |reply| Msg::FindCredentials(username, reply)).await?;
    let (user, hash) = found.map(|found| (found.user, found.password_hash)).unzip();
    let is_correct = auth.passwords.verify(password, hash).await?;
    let user = user.filter(|_| is_correct);
    let user = user.ok_or(Error::Unauthenticated("the name or the password is wrong"))?;
    let expires_in = auth.tokens.lifetime().as_secs();
    let access_token = auth.tokens.sign(&user)?;
    Ok(Json(LoginResponse { access_token, token_type: "bearer", expires_in }))
}

/// Tells whether a token is valid now, and whose it is.
#[utoipa::path(
    post, path = "/api/v1/auth/verify", tag = "auth", request_body = VerifyRequest, security(()),
    responses((status = 200, body = VerifyResponse), (status = "default", response = Problem))
)]
async fn verify_token(
    State(auth): State<Auth>,
    Json(VerifyRequest { token }): Json<VerifyRequest>,
) -> Result<Json<VerifyResponse>> {
    let verified = verification::verify(&auth.tokens, &auth.users, &token).await;
    Ok(Json(VerifyResponse::of(verified)?))
}

/// The caller's own user.
#[utoipa::path(
    get, path = "/api/v1/users/me", tag = "users",
    responses((status = 200, body = User), (status = "default", response = Problem))
)]
async fn current_user(
    State(auth): State<Auth>,
    Authenticated(caller): Authenticated,
) -> Result<Json<User>> {
    Ok(Json(auth.users.ask(caller.id, |reply| Msg::Find(caller.id, reply)).await?))
}

/// Changes of the own user.
#[derive(Debug, Deserr, ToSchema)]
#[deserr(error = ValidationErrors)]
struct UpdateUser {
    /// The new name, if it changes.
    #[deserr(default, try_from(Option<String>) = some_username -> InvalidValue)]
    #[schema(value_type = Option<String>, min_length = 3, max_length = 64, example = "anna")]
    username: Option<Username>,
    /// The new address, if it changes.
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
    put, path = "/api/v1/users/me", tag = "users", params(KeyHeader), request_body = UpdateUser,
    responses((status = 200, body = User), (status = "default", response = Problem))
)]
async fn update_current_user(
    State(auth): State<Auth>,
    Authenticated(caller): Authenticated,
    Idempotent(key, Json(UpdateUser { username, email })): Idempotent<Json<UpdateUser>>,
) -> Result<IdempotentResponse<User>> {
    let profile = Profile { username, email };
    let key = key.with_success(StatusCode::OK);
    let update = |reply| Msg::Update(caller.id, profile, key, reply);
    Ok(IdempotentResponse(StatusCode::OK, auth.users.ask(caller.id, update).await?))
}

/// All users, in the order of registration.
///
/// With `limit`, a page of them; the header `Link` leads to the next page.
#[utoipa::path(
    get, path = "/api/v1/users", tag = "users", params(Paging),
    responses((status = 200, body = Vec<User>), (status = "default", response = Problem))
)]
async fn list_users(State(auth): State<Auth>, query: ListQuery<UserId>) -> Result<Response> {
    let fetch = move |request| {
        let users = auth.users.clone();
        async move {
            let page = users.ask(Uuid::new_v4(), |reply| Msg::List(request, reply)).await?;
            Page::render(page, request, |user| user.id).map(Arc::new)
        }
    };
    query.respond("/api/v1/users", fetch).await
}

/// One user.
#[utoipa::path(
    get, path = "/api/v1/users/{user_id}", tag = "users", params(("user_id" = Uuid, Path)),
    responses((status = 200, body = User), (status = "default", response = Problem))
)]
async fn find_user(State(auth): State<Auth>, Path(id): Path<UserId>) -> Result<Json<User>> {
    Ok(Json(auth.users.ask(id, |reply| Msg::Find(id, reply)).await?))
}

/// A role.
#[derive(Debug, Deserr, ToSchema)]
#[deserr(error = ValidationErrors)]
struct SetRole {
    /// USER or ADMIN.
    #[deserr(try_from(String) = Role::parse -> InvalidValue)]
    role: Role,
}

/// Changes a user's role.
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
    Idempotent(key, Json(SetRole { role })): Idempotent<Json<SetRole>>,
) -> Result<IdempotentResponse<User>> {
    let key = key.with_success(StatusCode::OK);
    let set_role = |reply| Msg::SetRole(id, role, key, reply);
    Ok(IdempotentResponse(StatusCode::OK, auth.users.ask(id, set_role).await?))
}

/// Deletes a user.
///
/// The last administrator cannot be deleted.
#[utoipa::path(
    delete, path = "/api/v1/users/{user_id}", tag = "users", params(("user_id" = Uuid, Path), KeyHeader),
    responses((status = 200, body = Confirmation), (status = "default", response = Problem))
)]
async fn delete_user(
    State(auth): State<Auth>,
    Path(id): Path<UserId>,
    Idempotent(key, NoBody): Idempotent<NoBody>,
) -> Result<IdempotentResponse<Confirmation>> {
    let key = key.with_success(StatusCode::OK);
    let delete = |reply| Msg::Delete(id, key, reply);
    Ok(IdempotentResponse(StatusCode::OK, auth.users.ask(id, delete).await?))
}
