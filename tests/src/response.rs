//! Responses, and what the contract promises of each.

use reqwest::{StatusCode, header::HeaderMap};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::api::{FieldError, Problem};
use crate::secrets::{PASSWORD, SECRET};

/// Texts that no error may contain: internals and secrets.
const INTERNALS: [&str; 6] = ["select ", "insert ", "sqlx", ".rs:", SECRET, PASSWORD];

/// A response.
#[derive(Debug)]
pub struct Response {
    /// Method, URL and start of the request's body, for messages of failed tests.
    pub request: String,
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub text: String,
}

impl Response {
    /// Sends a request and reads the whole response.
    ///
    /// # Panics
    /// When there is no response.
    pub async fn of(request: reqwest::RequestBuilder) -> Response {
        let (client, request) = request.build_split();
        let request = request.expect("a valid request");
        let body = request.body().and_then(|body| body.as_bytes()).unwrap_or_default();
        let body = String::from_utf8_lossy(&body[..body.len().min(300)]);
        let sent = format!("{} {} {body}", request.method(), request.url());
        let response = client.execute(request).await.unwrap_or_else(|e| panic!("{sent}: {e}"));
        let (status, headers) = (response.status(), response.headers().clone());
        let text = response.text().await.unwrap_or_else(|e| panic!("{sent}: {e}"));
        Response { request: sent, status, headers, text }
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is not JSON.
    pub fn json(&self) -> Value {
        let json = serde_json::from_str(&self.text);
        json.unwrap_or_else(|error| panic!("not JSON ({error}): {}", self.text))
    }

    /// The body as JSON. Checks the headers and what the contract promises of every error.
    ///
    /// # Panics
    /// When the status is another one or a promise is broken.
    #[track_caller]
    pub fn expect(&self, status: u16) -> Value {
        let Response { request, text, .. } = self;
        assert_eq!(self.status.as_u16(), status, "{request}: {text}");
        assert!(!self.header("x-request-id").is_empty(), "{request}");
        let body = self.json();
        if status >= 400 {
            assert_eq!(self.header("content-type"), "application/problem+json", "{request}");
            let problem: Problem = self.parse(&body);
            assert_eq!(problem.status, status, "{request}: {text}");
            for text in [&problem.kind, &problem.title, &problem.detail] {
                assert!(!text.is_empty(), "{request}: an empty field: {body}");
            }
            for internal in INTERNALS {
                assert!(!text.contains(internal), "{request} shows {internal}: {text}");
            }
        }
        match status {
            401 => assert_eq!(self.header("www-authenticate"), "Bearer", "{request}"),
            429 | 503 => {
                let seconds = self.header("retry-after").parse::<u32>();
                assert!(seconds.is_ok(), "{request}: Retry-After is not a number: {seconds:?}");
            }
            _ => {}
        }
        body
    }

    /// The body as a type whose fields are exactly those of the JSON. Checks what [`Self::expect`]
    /// checks.
    ///
    /// # Panics
    /// When a check fails or the body has another shape.
    #[track_caller]
    pub fn read<T: DeserializeOwned>(&self, status: u16) -> T {
        self.parse(&self.expect(status))
    }

    /// The problem that an error response describes.
    ///
    /// # Panics
    /// When the status is another one or a promise is broken.
    #[track_caller]
    pub fn problem(&self, status: u16) -> Problem {
        self.read(status)
    }

    #[track_caller]
    fn parse<T: DeserializeOwned>(&self, body: &Value) -> T {
        T::deserialize(body).unwrap_or_else(|error| {
            let expected = std::any::type_name::<T>();
            panic!("{}: not a {expected} ({error}): {}", self.request, self.text)
        })
    }

    /// The fields that a 422 response rejects, in alphabetical order.
    ///
    /// # Panics
    /// When the status is not 422 or an error has no detail.
    #[track_caller]
    pub fn invalid_fields(&self) -> Vec<String> {
        let errors = self.problem(422).errors;
        assert!(!errors.is_empty(), "{}: no field errors: {}", self.request, self.text);
        assert!(errors.iter().all(|error| !error.detail.is_empty()), "{}", self.text);
        let mut fields: Vec<_> = errors.into_iter().map(|error| error.field).collect();
        fields.sort();
        fields
    }

    /// Whether an order was refused because the event of a user or product has not arrived yet.
    pub(crate) fn awaits_event(&self) -> bool {
        let is_reference =
            |error: &FieldError| error.field == "user_id" || error.field.ends_with(".product_id");
        match self.status.as_u16() {
            422 => self.problem(422).errors.iter().all(is_reference),
            503 => self.text.contains("account"), // the customer's own account is not known yet
            _ => false,
        }
    }

    /// The path of the next page, from the Link header.
    ///
    /// # Panics
    /// When the header has another form.
    pub fn next_page(&self) -> Option<String> {
        let link = self.headers.get("link")?.to_str().expect("a text");
        let next = link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\""));
        Some(next.expect("a link to the next page").to_owned())
    }

    /// A header.
    ///
    /// # Panics
    /// When it is missing.
    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        let value = value.unwrap_or_else(|| panic!("{}: no header {name}", self.request));
        value.to_str().expect("a text")
    }
}
