//! Lists as they go to clients: by pages or whole, compressed where the client takes it, and only when they have changed.

use std::io::Write;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use axum::body::{Body, Bytes};
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::stream::{self, TryStreamExt};
use serde::{Deserialize, Serialize};
use shop_persistence::pages::PageRequest;
use shop_persistence::{Error, InvalidValue};
use utoipa::IntoParams;
use uuid::Uuid;

use crate::body::Query;
use crate::problem::{Failure, Result};

/// A list that is asked for whole is read and sent in pages of so many, one after the other.
pub const WHOLE: Limit = Limit(1000);

/// Less is not worth compressing.
const SMALL: usize = 1024;

/// Which part of a list is asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Paging {
    /// At most so many; without it the list is whole.
    #[param(value_type = Option<i64>, minimum = 1, maximum = 1000)]
    limit: Option<Limit>,
    /// Where the page begins, as the header `Link` of the page before says.
    cursor: Option<String>,
}

/// How many things a page may hold.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "i64")]
pub struct Limit(i64);

impl Limit {
    /// As a number.
    pub fn get(self) -> usize {
        self.0 as usize
    }

    /// How many are read for a page: one more says whether there is a next page.
    pub fn part(self) -> i64 {
        self.0 + 1
    }
}

impl TryFrom<i64> for Limit {
    type Error = InvalidValue;

    fn try_from(limit: i64) -> Result<Limit, InvalidValue> {
        InvalidValue::unless_within(limit, 1..=1000).map(Limit)
    }
}

/// The value of the header that leads to the next page.
pub fn link(next: &str) -> String {
    format!("<{next}>; rel=\"next\"")
}

/// A page of a list, as it goes to clients.
#[derive(Debug)]
pub struct Page {
    /// An array of JSON.
    json: Bytes,
    /// Where the next page begins, if there is one.
    next: Option<String>,
    tag: OnceLock<Tag>,
    compressed: OnceLock<Bytes>,
}

/// Tells one content from another (RFC 9110, 8.8.3), plain and compressed.
#[derive(Debug)]
struct Tag {
    plain: HeaderValue,
    compressed: HeaderValue,
}

impl Page {
    /// The page of a list that asking for this part has brought; one thing more than fits is the first of the next page.
    pub fn of<T: Serialize, C: ToString, A>(
        mut things: Vec<T>,
        part: PageRequest<A>,
        place: impl FnOnce(&T) -> C,
    ) -> Result<Page, Error> {
        let more = things.len() as i64 == part.limit;
        things.truncate(usize::try_from(part.limit - 1).unwrap_or_default());
        let next = things.last().filter(|_| more).map(|last| place(last).to_string());
        let json =
            serde_json::to_vec(&things).map_err(|error| Error::Internal(error.into()))?.into();
        Ok(Page { json, next, tag: OnceLock::new(), compressed: OnceLock::new() })
    }

    /// How many bytes it takes, without and with its compressed form.
    pub fn weight(&self) -> usize {
        self.json.len() * 5 / 4
    }

    fn tag(&self) -> &Tag {
        self.tag.get_or_init(|| {
            let hash = Uuid::new_v5(&Uuid::NAMESPACE_OID, &self.json).simple();
            let value = |text: String| {
                HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("\"\""))
            };
            Tag {
                plain: value(format!("\"{hash}\"")),
                compressed: value(format!("\"{hash}-gzip\"")),
            }
        })
    }

    /// Compressed once, however many ask for it. Fast rather than small: a page of a thousand takes about a millisecond.
    fn compressed(&self) -> Bytes {
        let compress = || gzip(&self.json).expect("memory takes all that is written").into();
        self.compressed.get_or_init(compress).clone()
    }

    /// What stands between the brackets.
    fn inner(&self) -> Bytes {
        self.json.slice(1..self.json.len() - 1)
    }
}

fn gzip(json: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(vec![], Compression::fast());
    encoder.write_all(json)?;
    encoder.finish()
}

/// A list, as it is asked for.
#[derive(Debug)]
pub struct ListQuery<C> {
    limit: Option<Limit>,
    after: Option<C>,
    takes_gzip: bool,
    /// The tags of what the client has already.
    has: Option<HeaderValue>,
}

impl<S: Send + Sync, C: FromStr> FromRequestParts<S> for ListQuery<C> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<ListQuery<C>, Failure> {
        let Query(Paging { limit, cursor }) = Query::from_request_parts(parts, state).await?;
        let after = cursor.map(|cursor| cursor.parse()).transpose().map_err(|_| {
            let detail = "the cursor cannot be read; take the one of the last page's header Link";
            Failure::new(StatusCode::BAD_REQUEST, detail)
        })?;
        let has = parts.headers.get(header::IF_NONE_MATCH).cloned();
        Ok(ListQuery { limit, after, takes_gzip: takes_gzip(&parts.headers), has })
    }
}

/// Whether the client takes what is compressed with gzip (RFC 9110, 12.5.3).
fn takes_gzip(headers: &HeaderMap) -> bool {
    let taken = headers.get_all(header::ACCEPT_ENCODING).iter();
    taken.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let weight = weight.trim().strip_prefix("q=").map(str::parse::<f32>);
        name.trim().eq_ignore_ascii_case("gzip") && !weight.is_some_and(|weight| weight == Ok(0.0))
    })
}

impl<C: FromStr + Send + 'static> ListQuery<C> {
    /// Answers with the page that is asked for, or else with the whole list. `fetch` brings a part of it; `path` is where
    /// the list is, with what it is filtered by.
    pub async fn answer<F>(
        self,
        path: &str,
        fetch: impl Fn(PageRequest<C>) -> F + Send + 'static,
    ) -> Result<Response>
    where
        F: Future<Output = Result<Arc<Page>, Error>> + Send + 'static,
    {
        let ListQuery { limit, after, takes_gzip, has } = self;
        let length = limit.unwrap_or(WHOLE);
        let page = fetch(PageRequest { after, limit: length.part() }).await?;
        match (limit, &page.next) {
            (None, Some(_)) => Ok(whole(page, fetch)),
            (None, None) => Ok(answer(&page, None, takes_gzip, has)),
            (Some(_), next) => {
                let and = if path.contains('?') { '&' } else { '?' };
                let next = next.as_ref();
                let next =
                    next.map(|next| link(&format!("{path}{and}limit={}&cursor={next}", length.0)));
                Ok(answer(&page, next, takes_gzip, has))
            }
        }
    }
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Who has it may keep it, but must ask whether it is still so: it is for who is signed in.
const ASK_AGAIN: HeaderValue = HeaderValue::from_static("private, no-cache");

fn answer(
    page: &Page,
    link: Option<String>,
    takes_gzip: bool,
    has: Option<HeaderValue>,
) -> Response {
    let tag = page.tag();
    let is_compressed = takes_gzip && page.json.len() >= SMALL;
    let content = if is_compressed { &tag.compressed } else { &tag.plain };
    let mut response = match has.is_some_and(|has| is_among(&has, tag)) {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => {
            let json = if is_compressed { page.compressed() } else { page.json.clone() };
            let mut response = Response::new(Body::from(json));
            response.headers_mut().insert(header::CONTENT_TYPE, JSON);
            if is_compressed {
                let gzip = HeaderValue::from_static("gzip");
                response.headers_mut().insert(header::CONTENT_ENCODING, gzip);
            }
            response
        }
    };
    let headers = response.headers_mut();
    headers.insert(header::ETAG, content.clone());
    headers.insert(header::CACHE_CONTROL, ASK_AGAIN);
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if let Some(link) = link.and_then(|link| HeaderValue::try_from(link).ok()) {
        headers.insert(header::LINK, link);
    }
    response
}

/// Whether the client has this content in one of its forms (RFC 9110, 13.1.2).
fn is_among(has: &HeaderValue, tag: &Tag) -> bool {
    let tags = has.to_str().unwrap_or_default().split(',').map(str::trim);
    let mut strong = tags.map(|tag| tag.strip_prefix("W/").unwrap_or(tag));
    strong.any(|has| has == "*" || *has == tag.plain || *has == tag.compressed)
}

/// Sends the list page by page: the next one is read when the client has taken the last, so that no list is too long. If one
/// cannot be read the answer breaks off, and the client sees that it did.
fn whole<C: FromStr + Send + 'static, F>(
    first: Arc<Page>,
    fetch: impl Fn(PageRequest<C>) -> F + Send + 'static,
) -> Response
where
    F: Future<Output = Result<Arc<Page>, Error>> + Send + 'static,
{
    let start = (Bytes::from_static(b"["), Some(first), fetch);
    let pages = stream::try_unfold(start, move |(before, page, fetch)| async move {
        let Some(page) = page else { return Ok(None) };
        let next = match &page.next {
            Some(place) => {
                let after =
                    place.parse().map_err(|_| Error::Internal("an unreadable cursor".into()))?;
                Some(fetch(PageRequest { after: Some(after), limit: WHOLE.part() }).await?)
            }
            None => None,
        };
        let goes_on = next.iter().any(|next| !next.inner().is_empty());
        let between = Bytes::from_static(if goes_on { b"," } else { b"" });
        let end = Bytes::from_static(if next.is_none() { b"]" } else { b"" });
        let sent = stream::iter([before, page.inner(), end].map(Ok::<_, Error>));
        Ok::<_, Error>(Some((sent, (between, next, fetch))))
    });
    ([(header::CONTENT_TYPE, JSON)], Body::from_stream(pages.try_flatten())).into_response()
}
