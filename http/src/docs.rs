//! The OpenAPI document, generated from the handlers' types, and a page to read and try it.

use axum::Router;
use shop_persistence::FieldError;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{InfoBuilder, OpenApi};
use utoipa::{Modify, OpenApi as _};
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::problem::Problem;

#[derive(utoipa::OpenApi)]
#[openapi(
    security(("bearer" = [])),
    components(responses(Problem), schemas(FieldError)),
    modifiers(&Bearer)
)]
struct Common;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, api: &mut OpenApi) {
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build();
        let components = api.components.get_or_insert_default();
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    }
}

/// The document of a node, without its routes.
pub fn of(node: &str) -> OpenApi {
    let description = "Sign in on the auth node (`POST /api/v1/auth/login`) and send the \
        `access_token` as a bearer token. Errors are `application/problem+json` (RFC 9457); their \
        `detail` says what to do.";
    let mut api = Common::openapi();
    api.info = InfoBuilder::new()
        .title(format!("shop: {node}"))
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(description))
        .build();
    api
}

/// The routes `/openapi.json` and `/docs`.
pub fn routes(api: OpenApi) -> Router {
    let config = Config::default().persist_authorization(true).try_it_out_enabled(true);
    SwaggerUi::new("/docs").url("/openapi.json", api).config(config).into()
}
